"""A card in sentences and bars: shares, sureness, cost; nothing that a terminal would act on."""

from __future__ import annotations

import math
import re

import pytest

from personalization.styles.families import Feature
from personalization.styles.frames import openings
from personalization.styles.wording import (
    cost_sentence,
    drawn,
    entry_bars,
    frame_bars,
    sentences,
    sureness_of,
)
from tests.fakes.styles import (
    ONE_LINE,
    card_of,
    entry,
    found,
    framed,
    users_with_style,
    users_without_style,
    vote,
)


def test_a_label_is_as_sure_as_it_was_found_and_not_fixed_by_a_person():
    card = card_of(
        entry(Feature.OPENING, "{copy}: ", 0.9, sureness=7.0),
        entry(Feature.OPENING_WORDS, "{copy}: ", 0.6, sureness=5.0, words="docs"),
        entry(Feature.OPENING_WORDS, "{copy}: ", 0.3, sureness=2.0, words="test"),
    )
    assert [(one.text, sureness_of(card, one, Feature.OPENING)) for one in openings(card) if one.text] == [
        ("docs: ", 5.0),
        ("test: ", 2.0),
    ]
    assert "fixed by a person" not in " ".join(sentences(card))


def test_sentences_say_what_how_often_and_how_sure():
    card = framed(
        {"KAFKA-{n}: ": 0.604, "{copy}: ": 0.2},
        {" (#{n})": 0.9},
        ONE_LINE,
        entry(Feature.LENGTH, "6", 0.7),
        entry(Feature.CASING, "lower", 0.8),
        entry(Feature.STOP, "none", 0.9),
        entry(Feature.PROMPT_KIND, "paths", 1.0),
        entry(Feature.PROMPT_HEAD, "Changed files:\n", 0.8),
        entry(Feature.PROMPT_TAIL, "Summary:", 0.9),
    )
    told = sentences(card)
    assert told[0] == "About 312 users voted."
    for expected in (
        "About 60 % of answers open with `KAFKA-{n}: `; sure: 4.0 standard deviations above the threshold.",
        "About 90 % of answers close with ` (#{n})`; sure: 4.0 standard deviations above the threshold.",
        "About 20 % of answers open like any sentence.",
        "`{n}` is a number, `{copy}` are words of the prompt.",
        "Answers have 4 to 6 (about 70 %) words.",
        "After the opening the text begins with a small letter (about 80 %).",
        "Answers end with no stop (about 90 %).",
        "Answers stand on one line (about 100 %).",
        "Prompts are lists of paths (about 100 %).",
        "Prompts begin with `Changed files:⏎` (about 80 %).",
        "Prompts end with `Summary:` (about 90 %).",
    ):
        assert expected in told


def test_a_frame_is_as_sure_as_its_weakest_entry():
    card = card_of(
        entry(Feature.OPENING, "{t}-{n}: ", 0.6, sureness=9.0),
        entry(Feature.OPENING_WORDS, "{t}-{n}: ", 0.6, words="KAFKA", sureness=2.5),
        entry(Feature.OPENING, "[{t}] ", 0.2, sureness=1.0),
        entry(Feature.OPENING_WORDS, "[{t}] ", 0.2, words="core", sureness=0.5),
    )
    sure = {one.text: sureness_of(card, one, Feature.OPENING) for one in openings(card)}
    assert sure["KAFKA-{n}: "] == 2.5
    assert sure["[core] "] == 0.5
    assert sure[""] is None


def test_fixed_and_struck_entries_are_named_as_such():
    card = framed({})
    fixed = entry(Feature.OPENING, "NOTE: ", 0.5, pinned=True, sureness=0.0)
    told = sentences(card_of(fixed))
    assert "About 50 % of answers open with `NOTE: `; fixed by a person." in told
    assert entry_bars(card_of(fixed))[0].pinned
    struck = type(card)(**{**card.__dict__, "removed": ("0123456789ab",)})
    assert "1 entry was found and struck by a person." in sentences(struck)


def test_a_poor_card_says_so():
    told = sentences(found(users_without_style(300)))
    assert any("too many ways for a common style" in one for one in told)
    assert not any("too many ways" in one for one in sentences(found(users_with_style(300))))


@pytest.mark.parametrize("noise", [3.0, 8.0, 15.0])
def test_the_cost_is_that_of_a_gaussian_alone(noise):
    def epsilon(order):  # Canonne, Kamath and Steinke, at δ less the vote's own
        left = 1e-5 - 1e-6
        return order / (2 * noise**2) + math.log1p(-1 / order) - math.log(left * order) / (order - 1)

    least = min(epsilon(1 + step / 50) for step in range(1, 20_000))
    told = cost_sentence(vote(noise), 1e-5)
    assert float(re.search(r"ε = ([0-9.]+) at δ = 1e-05", told).group(1)) == pytest.approx(least, rel=0.02)
    assert f"noise of {noise:g} votes" in told


def test_bars_have_a_row_for_every_frame_and_every_entry():
    card = found(users_with_style(300))
    assert {bar.label for bar in frame_bars(card)} >= {"TASK-{n}: ", "NOTE: ", " (#{n})"}
    assert [bar.handle for bar in entry_bars(card)] == [one.handle for one in card.entries]


@pytest.mark.parametrize(
    ("share", "bar"), [(0, ""), (0.5, "██"), (1, "████"), (0.28, "█▏"), (7, "████"), (-1, "")]
)
def test_a_bar_is_as_long_as_its_share(share, bar):
    assert drawn(share, 4) == bar


def test_nothing_moves_the_cursor():
    told = " ".join(sentences(framed({"\x1b[2J\n\x07{n}: ": 0.9})))
    assert "\x1b" not in told
    assert "\x07" not in told
    assert "\n" not in told
    assert "�[2J⏎�{n}: " in told


def test_openings_that_are_only_taken_to_be_alike_are_said_to_be():
    told = " ".join(
        sentences(card_of(entry(Feature.OPENING, "[x] ", 0.3), entry(Feature.FRAMED, "yes", 0.9)))
    )
    assert "About 90 % of answers open with `[x] `" in told
    assert (
        "60 % of answers open in frames that so few users do not show; they are only taken to be alike"
        in told
    )
    assert "so few users" not in " ".join(sentences(framed({"[x] ": 0.9})))
