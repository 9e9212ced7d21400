"""Whatever frames a card holds, its constraint can be read, and no answer can be read in two ways."""

from __future__ import annotations

import re

from hypothesis import event, given
from hypothesis import strategies as st

from personalization.styles.families import Feature
from personalization.styles.grammar import constraint_of
from personalization.styles.slots import filled
from tests.fakes.gbnf import as_pattern, readings
from tests.fakes.styles import ONE_LINE, framed

pieces = st.lists(
    st.sampled_from(
        ["{copy}", "{n}", "{{", "}}", "a", "b", "-", ": ", " (", "#", ")", "|", "]", "\\", '"', "^", "."]
    ),
    min_size=1,
    max_size=5,
).map("".join)
frames = st.dictionaries(pieces, st.sampled_from([0.1, 0.2, 0.3, 0.5]), max_size=3)
bodies = st.text(alphabet='ab -:(#)|.]5\\"', min_size=1, max_size=8)


@given(frames, frames, bodies, st.booleans(), st.data())
def test_an_answer_has_one_reading_at_most(heads, tails, body, single, data):
    card = framed(heads, tails, *([ONE_LINE] if single else []))
    one = constraint_of(card, limit=0.05)
    if not one.pattern:
        return
    fill = lambda slot: data.draw(st.sampled_from(["7", "42"] if slot == "{n}" else ["a", "b5", "-"]))  # noqa: E731
    head = filled(data.draw(st.sampled_from([*heads, ""])), fill)
    tail = filled(data.draw(st.sampled_from([*tails, ""])), fill)
    text = head + body + tail
    count = readings(one.grammar, text)
    event(f"readings: {count}")
    assert count <= 1
    assert (re.fullmatch(one.pattern, text) is not None) == (count == 1)


@given(frames, frames)
def test_both_notations_can_be_read_and_are_the_same_for_the_same_card(heads, tails):
    card = framed(heads, tails, ONE_LINE)
    one = constraint_of(card, limit=0.05)
    assert one == constraint_of(card, limit=0.05)
    re.compile(one.pattern)
    if one.grammar:
        re.compile(as_pattern(one.grammar))
    assert card.of(Feature.LINES)
