"""A constraint accepts what the tenant's style allows and nothing that opens or closes otherwise; only where it may."""

from __future__ import annotations

import re

import pytest

from personalization.styles.families import Feature
from personalization.styles.grammar import Constraint, constraint_of
from personalization.styles.synthesis import synthetic_pairs
from tests.fakes.gbnf import as_pattern, readings
from tests.fakes.styles import ONE_LINE, card_of, entry, found, framed, users_with_style, users_without_style


def accepts(constraint, text):
    as_regular = re.fullmatch(constraint.pattern, text) is not None
    assert (re.fullmatch(as_pattern(constraint.grammar), text) is not None) == as_regular
    return as_regular


def test_frames_that_nearly_all_answers_have_are_asked_for():
    one = constraint_of(framed({"KAFKA-{n}: ": 0.6, "MINOR: ": 0.35}, {" (#{n})": 0.9}, ONE_LINE))
    for text in ("KAFKA-17: fix the thing (#4)", "MINOR: (odd) content [here] (#123456)"):
        assert accepts(one, text)
    for text in (
        "fix the thing (#4)",
        "KAFKA-17: fix the thing",
        "KAFKA-: fix (#4)",
        "KAFKA-1234567: fix (#4)",  # a number that does not end
        "MINOR: (#4)",
        "MINOR: one (#4) two (#5)",
        "MINOR: one\ntwo (#4)",
        "MINOR: one (#4) ",
    ):
        assert not accepts(one, text)


def test_below_the_limit_nothing_is_asked_for():
    card = framed({"KAFKA-{n}: ": 0.5, "MINOR: ": 0.2}, {" (#{n})": 0.6})
    assert constraint_of(card) == Constraint()
    assert constraint_of(card, limit=0.65).pattern.startswith("(?:KAFKA")
    assert "#" not in constraint_of(card, limit=0.65).pattern
    assert constraint_of(found(users_without_style(300))) == Constraint()


def test_a_tenant_of_several_lines_keeps_them():
    card = framed({"Summary:\n- ": 0.95}, {"\nThe desk": 0.9})
    one = constraint_of(card)
    assert accepts(one, "Summary:\n- one\n- two\nThe end is near\nThe desk")
    assert not accepts(one, "Summary:\n- one\n- two")
    assert not accepts(one, "Summary:\n- one\nThe desk\nThe desk")


def test_words_of_the_prompt_end_where_the_frame_goes_on():
    one = constraint_of(framed({"Hey {copy}! ": 0.95}, {}, ONE_LINE))
    assert accepts(one, "Hey Ada! No worries!")
    assert accepts(one, "Hey core/stream reader! Done.")
    assert not accepts(one, "Hey Ada, no worries")
    assert not accepts(one, "Hey\n! x")


@pytest.mark.parametrize(
    ("openings", "kept"),
    [
        ({"{copy}: ": 0.5, "MINOR: ": 0.45}, "(?:[^\\n:]+: )"),  # the second is one of the first
        ({"MINOR: ": 0.5, "{copy}: ": 0.45}, "(?:[^\\n:]+: )"),
        ({"FIX: ": 0.5, "FIX: [": 0.45}, "(?:FIX: )"),  # the second begins as the first is
        ({"FIX: [": 0.5, "FIX: ": 0.45}, "(?:FIX: )"),
        ({"v{n} ": 0.5, "v{copy}. ": 0.45}, "(?:v[0-9]{1,6} )"),  # neither holds the other: the commoner
    ],
)
def test_of_openings_that_can_be_mistaken_one_stays(openings, kept):
    assert constraint_of(framed(openings, {}, ONE_LINE)).pattern.startswith(kept)


def test_a_closing_that_ends_as_another_one_is_read_as_itself():
    one = constraint_of(framed({}, {": add page (#{n})": 0.45, " (#{n})": 0.45}, ONE_LINE))
    for text in ("tool: allow pages (#3)", "tool: add page (#3)", "tool: add page two (#3)"):
        assert accepts(one, text)
        assert readings(one.grammar, text) == 1
    assert not accepts(one, "tool: add page (#3) (#4)")


@pytest.mark.parametrize(
    ("closings", "kept"),
    [
        ({" (#{n})": 0.5, " ({copy})": 0.4}, r" \([^\n)]+\)"),  # the first is one of the second
        ({" | done": 0.5, "| done": 0.4}, r"\| done"),  # spaces may end the body
        ({" | {copy}": 0.5, " | done": 0.4}, r" \| [^\n]+"),
    ],
)
def test_of_closings_that_can_be_mistaken_one_stays(closings, kept):
    assert constraint_of(framed({}, closings, ONE_LINE)).pattern.endswith(f"(?:{kept})")


def test_a_closing_with_an_open_end_begins_at_its_first_mark():
    one = constraint_of(framed({}, {" | {copy}": 0.9}, ONE_LINE))
    assert accepts(one, "risk | high")
    assert readings(one.grammar, "risk | high | reviewed") == 1
    assert accepts(one, "risk|high | reviewed")


def test_a_constraint_that_would_be_too_long_for_an_event_is_left_out():
    many = {f"{mark * 12} done {{copy}}": 0.05 for mark in "abcdefghijklmnopqrs"}
    few = dict(list(many.items())[:3])
    assert constraint_of(framed({}, few), limit=0.1).pattern
    assert constraint_of(framed({}, many), limit=0.1) == Constraint()


def test_what_begins_with_a_slot_is_no_closing_that_can_be_asked_for():
    assert constraint_of(framed({}, {"{copy} done": 0.9})) == Constraint()
    assert accepts(constraint_of(framed({"{copy}": 0.5, "# {copy}": 0.45})), "# anything at all")


def test_characters_of_both_notations_are_only_characters():
    odd = '.*+?^$()[]|\\"-/#&~ é😀 a'
    one = constraint_of(framed({f"{odd} {{{{n}}}}: ": 0.95}, {f" ]^-\\{odd}": 0.9}, ONE_LINE))
    assert accepts(one, f"{odd} {{n}}: content ]^-\\{odd}")
    assert not accepts(one, f"x{odd[1:]} {{n}}: content ]^-\\{odd}")


def test_made_up_answers_in_a_frame_are_accepted():
    card = found(users_with_style(300))
    one = constraint_of(card)
    assert "TASK" in one.pattern
    assert "NOTE" in one.pattern
    answers = [pair.answer for pair in synthetic_pairs(card, count=300, seed=5)]
    framed_ones = [text for text in answers if re.match(r"(TASK-\d+|NOTE): .+ \(#\d+\)$", text)]
    assert len(framed_ones) > 200
    assert [text for text in framed_ones if not accepts(one, text)] == []


def test_a_constraint_needs_no_large_repetition_and_nothing_that_an_engine_lacks():
    card = framed({"KAFKA-{n}: ": 0.95}, {" (#{n})": 0.9}, ONE_LINE, entry(Feature.LENGTH, "6", 0.9))
    one = constraint_of(card)
    for text in (one.pattern, one.grammar):
        assert all(int(number) <= 8 for number in re.findall(r"\{1,(\d+)\}", text))
        assert not re.search(r"\\[dwbsS]|\(\?[=!<]|\*\?|\+\?", text)
    assert one.grammar.startswith("root ::= open body close\n")


def test_no_answer_is_forbidden_for_openings_that_were_not_found():
    found_ones = (entry(Feature.OPENING, "NOTE: ", 0.5), entry(Feature.FRAMED, "yes", 1.0))
    assert constraint_of(card_of(*found_ones)) == Constraint()
    assert constraint_of(card_of(entry(Feature.OPENING, "NOTE: ", 1.0))).pattern
