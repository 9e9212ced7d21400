"""Rehearsed notes: the value of each answer stands in its notes and nowhere else, and the style is the card's."""

import re

from personalization.memory.rendering import NOT_THERE
from personalization.styles.noted import WITHOUT, noted_pairs
from tests.fakes.tiny_models import style_card

PAIRS = noted_pairs(style_card(), count=200, seed=1)
UNSAID = NOT_THERE[0].lower() + NOT_THERE[1:-1]


def test_each_value_is_taken_from_the_notes():
    for pair in PAIRS:
        notes, _, question = pair.prompt.partition("\n\nAnswer from the notes.\n")
        assert notes.startswith("Notes:\n- [")
        assert question.endswith("?")
        if UNSAID not in pair.answer:
            (value,) = re.findall(r"(?<![\w.])\d+(?![\w.])", pair.answer)
            assert re.search(rf"\b{value}\b", notes)
            assert value not in re.findall(r"\d+", question) or int(value) == 3


def test_a_share_is_answered_with_that_the_notes_do_not_say():
    without = [pair for pair in PAIRS if UNSAID in pair.answer]
    assert abs(len(without) / len(PAIRS) - WITHOUT) < 0.08
    assert all("- [" in pair.prompt for pair in without)


def test_answers_have_the_cards_frames():
    assert sum(pair.answer.startswith("[DONE] ") for pair in PAIRS) > 150
    assert sum(pair.answer.endswith(" | ok") for pair in PAIRS) > 150


def test_they_are_the_same_for_the_same_card_and_seed_and_others_for_another():
    assert noted_pairs(style_card(), count=200, seed=1) == PAIRS
    assert noted_pairs(style_card(), count=200, seed=2) != PAIRS
