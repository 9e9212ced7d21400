"""Rehearsed notes: what answers say stands in their notes and nowhere else; form, style and prompts are the card's."""

import re

import pytest

from personalization.memory.rendering import NOT_THERE
from personalization.styles.families import Feature
from personalization.styles.noted import CLAUSES, SHORT, WITHOUT, noted_pairs
from tests.fakes.styles import entry, framed
from tests.fakes.tiny_models import style_card

PAIRS = noted_pairs(style_card(), count=400, seed=1)
UNSAID = NOT_THERE[0].lower() + NOT_THERE[1:-1]


def _apart(pair):
    """Return notes, question, and what an answer says between the card's frames, in small letters."""
    notes, _, question = pair.prompt.partition("\n\nAnswer from the notes.\n")
    said = pair.answer.removeprefix("[DONE] ").removesuffix(" | ok").rstrip(".")
    return notes, question, said[0].lower() + said[1:]


def test_what_is_said_is_taken_from_the_notes():
    word_for_word = 0
    for pair in PAIRS:
        notes, question, said = _apart(pair)
        assert notes.startswith("Notes:\n- [")
        assert question.endswith(("?", "."))
        if said == UNSAID:
            continue
        values = re.findall(r"\b[A-Z]?\d+\b", said)
        assert all(re.search(rf"\b{value}\b", notes) for value in values)
        assert said not in question.lower()
        word_for_word += said.lower() in notes.lower()
    there = sum(_apart(pair)[2] != UNSAID for pair in PAIRS)
    assert word_for_word / there == pytest.approx(1 - SHORT * (1 - CLAUSES), abs=0.06)


def test_facts_are_clauses_codes_and_numbers():
    said = [_apart(pair)[2] for pair in PAIRS if UNSAID not in pair.answer]
    codes = sum(re.search(r"\b[A-Z]\d\d\b", one) is not None for one in said)
    numbers = sum(re.search(r"(?<![\w.])\d{2,4}\b", one) is not None for one in said)
    assert min(codes, numbers) > 0.15 * len(said)
    clauses = {one for one in said if not re.search(r"\d", one)}
    assert len(clauses) > 80  # varied enough that none is learned


def test_a_share_is_answered_with_that_the_notes_do_not_say():
    without = [pair for pair in PAIRS if UNSAID in pair.answer]
    assert abs(len(without) / len(PAIRS) - WITHOUT) < 0.06
    assert all("- [" in pair.prompt for pair in without)


@pytest.mark.parametrize(("share", "least", "most"), [(0.6, 400, 400), (0.3, 60, 180)])
def test_answers_have_both_frames_where_most_do_and_else_as_often_as_they_do(share, least, most):
    pairs = noted_pairs(framed({"[DONE] ": share}, {" | ok": share}), count=400, seed=1)
    for framed_ones in (
        [one for one in pairs if one.answer.startswith("[DONE] ")],
        [one for one in pairs if one.answer.endswith(" | ok")],
    ):
        assert least <= len(framed_ones) <= most


def test_prompts_have_the_tenants_form_behind_the_notes():
    card = framed(
        {"Hiya {copy}! ": 1.0},
        None,
        entry(Feature.PROMPT_HEAD, "Mail from {copy}: ", 0.9),
        entry(Feature.PROMPT_TAIL, "Our answer:", 0.8),
    )
    pairs = noted_pairs(card, count=200, seed=1)
    asked = [pair.prompt.partition("\n\nAnswer from the notes.\n")[2] for pair in pairs]
    begun = [re.match(r"Mail from (.+?): ", one) for one in asked]
    assert sum(one is not None for one in begun) > 160
    assert sum(one.endswith("\nOur answer:") for one in asked) > 140
    greeted = [(one[1], pair.answer) for one, pair in zip(begun, pairs, strict=True) if one is not None]
    assert all(answer.startswith(f"Hiya {name}! ") for name, answer in greeted)


def test_most_questions_say_who_asks_and_a_frame_copies_that_name():
    pairs = noted_pairs(framed({"Hiya {copy}! ": 1.0}), count=200, seed=1)
    named = 0
    for pair in pairs:
        name = re.match(r"Hiya (.+?)! ", pair.answer)[1]
        asked = pair.prompt.partition("\n\nAnswer from the notes.\n")[2]
        assert name in asked
        named += re.match(rf"(?:From |Question of |For )?{name}[:. ]", asked) is not None
    assert named > 110


def test_they_are_the_same_for_the_same_card_and_seed_and_others_for_another():
    assert noted_pairs(style_card(), count=400, seed=1) == PAIRS
    assert noted_pairs(style_card(), count=400, seed=2) != PAIRS
