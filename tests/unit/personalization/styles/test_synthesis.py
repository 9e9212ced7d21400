"""Made-up pairs have the card's shares and no slot left, and are the same for the same card and seed."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from personalization.styles.families import Feature, length_bucket, prompt_kind
from personalization.styles.frames import closings, openings
from personalization.styles.synthesis import synthetic_pairs
from tests.fakes.styles import ONE_LINE, card_of, entry, found, framed, users_with_style


def share_of(pairs, pattern):
    return sum(re.search(pattern, pair.answer) is not None for pair in pairs) / len(pairs)


def test_frames_come_as_often_as_the_card_says():
    card = framed({"KAFKA-{n}: ": 0.6, "MINOR: ": 0.3}, {" (#{n})": 0.7}, ONE_LINE)
    pairs = synthetic_pairs(card, count=1000, seed=1)
    assert share_of(pairs, r"^KAFKA-\d+: ") == pytest.approx(0.6, abs=0.05)
    assert share_of(pairs, r"^MINOR: ") == pytest.approx(0.3, abs=0.05)
    assert share_of(pairs, r" \(#\d+\)$") == pytest.approx(0.7, abs=0.05)


def test_both_ends_come_together_more_often_than_by_chance():
    pairs = synthetic_pairs(framed({"KAFKA-{n}: ": 0.6}, {" (#{n})": 0.5}, ONE_LINE), count=2000, seed=1)
    assert share_of(pairs, r"^KAFKA-\d+: ") == pytest.approx(0.6, abs=0.04)
    assert share_of(pairs, r" \(#\d+\)$") == pytest.approx(0.5, abs=0.04)
    by_chance, at_most = 0.6 * 0.5, 0.5
    both = share_of(pairs, r"^KAFKA-\d+: .* \(#\d+\)$")
    assert both == pytest.approx((by_chance + at_most) / 2, abs=0.04)


def test_numbers_vary_in_size_and_never_run_away():
    pairs = synthetic_pairs(framed({"KAFKA-{n}: ": 0.95}), count=400, seed=1)
    numbers = [re.match(r"KAFKA-(\d+): ", pair.answer) for pair in pairs]
    digits = Counter(len(one.group(1)) for one in numbers if one)
    assert len(digits) >= 3
    assert max(digits) <= 5
    assert len({one.group(1) for one in numbers if one}) > 200


def test_copies_are_words_of_the_prompt():
    pairs = synthetic_pairs(framed({"{copy}: ": 0.95}), count=300, seed=2)
    heads = [(pair.prompt, pair.answer.split(": ")[0]) for pair in pairs if ": " in pair.answer]
    assert len(heads) > 250
    assert all(head.casefold() in prompt.casefold() for prompt, head in heads)


@pytest.mark.parametrize("kind", ["paths", "lines", "sentence", "question"])
def test_the_prompt_of_a_labelled_answer_holds_the_label(kind):
    card = card_of(
        entry(Feature.OPENING, "{copy}: ", 0.5),
        entry(Feature.OPENING_WORDS, "{copy}: ", 0.4, words="Vexilla"),
        entry(Feature.OPENING, "{t}: ", 0.5),
        entry(Feature.OPENING_WORDS, "{t}: ", 0.5, words="Fix"),
        entry(Feature.PROMPT_KIND, kind, 1.0),
    )
    pairs = synthetic_pairs(card, count=200, seed=1)
    labelled = [pair for pair in pairs if pair.answer.startswith("Vexilla: ")]
    assert len(labelled) == pytest.approx(100, abs=25)
    assert all("vexilla" in pair.prompt for pair in labelled)
    assert not any("vexilla" in pair.prompt for pair in pairs if pair not in labelled)


def test_no_slot_is_left_and_what_users_typed_stays():
    pairs = synthetic_pairs(framed({"[{{n}}] {copy} {n}: ": 0.9}, {" ({{n}})": 0.9}), count=200, seed=3)
    styled = [pair.answer for pair in pairs if re.match(r"\[\{n\}\] \S.* \d+: .+ \(\{n\}\)$", pair.answer)]
    assert len(styled) > 140
    assert not [pair for pair in pairs if "{copy}" in pair.answer]


def test_one_seed_makes_the_same_and_another_makes_others():
    card = found(users_with_style(300))
    one = synthetic_pairs(card, count=50, seed=1)
    assert one == synthetic_pairs(card, count=50, seed=1)
    other = synthetic_pairs(card, count=50, seed=2)
    assert len({pair.answer for pair in one} & {pair.answer for pair in other}) < 5


def test_forms_follow_the_card():
    card = card_of(
        entry(Feature.OPENING, "- ", 0.9),
        entry(Feature.LENGTH, "6", 0.8),
        entry(Feature.LENGTH, "10", 0.2),
        entry(Feature.CASING, "capital", 1.0),
        entry(Feature.STOP, ".", 1.0),
        entry(Feature.PROMPT_KIND, "question", 1.0),
        entry(Feature.PROMPT_TAIL, "Reply:", 1.0),
    )
    pairs = synthetic_pairs(card, count=400, seed=4)
    lengths = Counter(length_bucket(len(pair.answer.split())) for pair in pairs)
    assert lengths["6"] > lengths["10"] > 0
    assert lengths["6"] + lengths["10"] > 300
    assert share_of(pairs, r"\.$") > 0.95
    assert share_of(pairs, r"^- [A-Z]") > 0.8
    assert all(pair.prompt.endswith("\nReply:") for pair in pairs)
    kinds = Counter(prompt_kind(pair.prompt.removesuffix("\nReply:")) for pair in pairs)
    assert kinds.most_common(1)[0][0] == "question"


def test_found_frames_come_back_from_what_is_made_of_them():
    card = found(users_with_style(300))
    pairs = synthetic_pairs(card, count=600, seed=6)
    for frames, anchor in ((openings(card), "^{}"), (closings(card), "{}$")):
        for frame in frames:
            if frame.text and "{copy}" not in frame.text:
                pattern = re.escape(frame.text).replace(re.escape("{n}"), r"\d+")
                assert share_of(pairs, anchor.format(pattern)) == pytest.approx(frame.share, abs=0.08)


def test_a_frame_that_is_a_whole_answer_gets_no_content():
    head, tail = "{copy}: add page (#{n})", " (#{n})"
    pairs = synthetic_pairs(framed({head: 0.9}, {tail: 0.5}, ONE_LINE), count=300, seed=5)
    whole = [pair.answer for pair in pairs if ": add page (#" in pair.answer]
    assert len(whole) > 200
    assert all(answer.endswith(")") and answer.count("(#") == 1 for answer in whole)


def test_prompts_are_of_the_kind_that_the_card_tells():
    card = card_of(entry(Feature.OPENING, "- ", 0.9), entry(Feature.PROMPT_KIND, "question", 1.0))
    kinds = Counter(prompt_kind(pair.prompt) for pair in synthetic_pairs(card, count=400, seed=6))
    assert kinds["question"] > 0.8 * 400  # the rest are of other kinds on purpose


def test_content_stands_between_a_sentence_that_opens_and_one_that_closes():
    card = framed({"Dear {copy}, we thank you. ": 0.95}, {". Yours, the bank": 0.95}, ONE_LINE)
    whole = [
        pair.answer
        for pair in synthetic_pairs(card, count=200, seed=7)
        if pair.answer.startswith("Dear ") and pair.answer.endswith(". Yours, the bank")
    ]
    assert len(whole) > 150
    assert not any("thank you. Yours" in answer for answer in whole)
    assert len({answer.partition("thank you. ")[2] for answer in whole}) > 50


def test_prompts_begin_as_the_card_tells_and_answers_copy_the_name_that_stands_there():
    card = framed(
        {"Hey {copy}! No worries, ": 0.95},
        {},
        entry(Feature.PROMPT_HEAD, "Customer {copy} writes: ", 0.95),
        entry(Feature.PROMPT_KIND, "question", 1.0),
        entry(Feature.CASING, "capital", 1.0),
    )
    pairs = synthetic_pairs(card, count=400, seed=7)
    asked = [re.match(r"Customer (\w+) writes: \S", pair.prompt) for pair in pairs]
    names = [found.group(1) for found in asked if found]
    assert len(names) > 350
    assert len(set(names)) > 100, "a few names would be learned by heart"
    styled = [
        (found.group(1), pair.answer)
        for found, pair in zip(asked, pairs, strict=True)
        if found and "No w" in pair.answer
    ]
    assert len(styled) > 300
    assert all(answer.startswith(f"Hey {name}! No worries, ") for name, answer in styled)
    assert all(answer.split("worries, ")[1][0].islower() for _, answer in styled), (
        "after a comma nothing is capital"
    )


def test_where_content_stands_is_told():
    card = framed({"MINOR: ": 0.95}, {" (#{n})": 0.95}, ONE_LINE)
    pairs = synthetic_pairs(card, count=300, seed=8)
    whole = [pair for pair in pairs if re.match(r"MINOR: .* \(#\d+\)$", pair.answer)]
    assert len(whole) > 250
    for pair in whole:
        begins, ends = pair.content
        assert pair.answer[:begins] == "MINOR: "
        assert re.fullmatch(r" \(#\d+\)", pair.answer[ends:])


def test_a_stop_and_a_plain_answer_have_content_too():
    card = framed({"[x] ": 0.4}, {}, entry(Feature.STOP, ".", 1.0))
    for pair in synthetic_pairs(card, count=200, seed=9):
        begins, ends = pair.content
        assert pair.answer[:begins] in {"", "[x] "}
        assert pair.answer[ends:] in {"", "."}
        assert ends > begins


def test_a_bracket_that_an_opening_ends_with_is_closed_around_something():
    pairs = synthetic_pairs(framed({"fix(": 1.0}), count=40, seed=1)
    assert all(re.match(r"fix\([^()]+\) \S", one.answer) for one in pairs), pairs[0]
    wrapped = synthetic_pairs(framed({"(": 1.0}, {")": 1.0}), count=40, seed=1)
    assert all(one.answer.count(")") == 1 for one in wrapped), wrapped[0]
    assert all(one.answer[one.content[0] - 2 : one.content[0]] == ") " for one in pairs)
