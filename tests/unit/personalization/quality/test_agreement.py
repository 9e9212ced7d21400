"""What agrees with users' answers, and what no user would write."""

from __future__ import annotations

import pytest

from personalization.quality.agreement import Ends, agreement, degenerate, openings_apart
from personalization.quality.answers import Answer

WORDS = ["river", "lake", "hill", "wood", "road", "bridge", "tower", "house", "garden", "field"]
ASKED = [
    (
        f"prompt number {at}",
        f"{'FIX' if at % 2 else 'DOC'}: Repair{word} many{word} small{word} old{word} things{word} (#{at})",
    )
    for at, word in enumerate(WORDS)
]
ENDS = Ends.of(ASKED)


def said(texts):
    return [Answer(text, ended=True) for text in texts]


def test_users_agree_with_themselves():
    own = said(wanted for _, wanted in ASKED)
    found = agreement(own, ASKED, ENDS)
    assert {name: share["value"] for name, share in found.items()} == dict.fromkeys(found, 1.0)
    assert openings_apart(own, ASKED, ENDS) == 0.0
    assert degenerate(own, [prompt for prompt, _ in ASKED])["any"] == 0.0


def test_each_disagreement_is_counted_by_itself():
    found = agreement(said(["DOC: repair it"] * 10), ASKED, ENDS)
    assert found["match"]["value"] == 0.5
    assert found["match"]["low"] < 0.5 < found["match"]["high"]
    assert found["in_set"]["value"] == 1.0
    assert found["closing"]["value"] == 0.0
    assert found["length"]["value"] == 0.0
    assert found["casing"]["value"] == 0.0


def test_openings_of_one_kind_are_half_apart_from_two_even_kinds():
    assert openings_apart(said(["DOC: x"] * 10), ASKED, ENDS) == pytest.approx(0.5)
    assert openings_apart(said(["anything"] * 10), ASKED, ENDS) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("KAFKA-1000000000: fix", "number"),
        ("the cat sat on the cat sat on the cat sat on", "repeats"),
        ("", "empty"),
        ("(#12):", "empty"),
        ("prompt number 3", "copy"),
    ],
)
def test_degenerate_answers(text, kind):
    fine = ["a fine answer about " + word for word in ("sun", "rain", "wind", "snow", "hail", "fog")]
    prompts = [f"prompt number {at}" for at in range(7)]
    shares = degenerate(said([*fine[:3], text, *fine[3:]]), prompts)
    assert shares[kind] == pytest.approx(1 / 7)
    assert shares["any"] == pytest.approx(1 / 7)


def test_one_answer_to_everything_is_a_copy_and_a_limit_is_told_apart():
    prompts = [f"question {at}" for at in range(4)]
    same = [Answer(f"KAFKA-{at}: Fix it", ended=False) for at in range(4)]
    shares = degenerate(same, prompts)
    assert shares["copy"] == 1.0
    assert shares["limit"] == 1.0
    assert degenerate(said(["Fix it"] * 2), ["same"] * 2)["copy"] == 0.0  # one prompt, so one answer is right
