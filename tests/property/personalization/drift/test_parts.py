"""Whatever a user sends, the user's part is of whole numbers, not negative, and no longer than one."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from personalization.drift.features import FAMILIES, SIZE, UNIT, norm_of, part_of, sum_of
from personalization.training.jobs.job import Example, ExampleKind, UserExamples

TEXT = st.text(max_size=60) | st.sampled_from(["", "a b?", "Straße/haus.py", "word " * 300, "你好 мир"])
EXAMPLE = st.builds(
    Example, prompt=TEXT, completion=TEXT, kind=st.sampled_from(list(ExampleKind)), shown=st.none() | TEXT
)
USER = st.builds(UserExamples, examples=st.lists(EXAMPLE, max_size=6).map(tuple))


@settings(max_examples=15)
@given(USER)
def test_a_part_is_short_whatever_a_user_sends(user):
    part = part_of(user)
    assert len(part) == SIZE
    assert all(type(one) is int and one >= 0 for one in part)
    assert math.sqrt(sum(one**2 for one in part)) <= UNIT * norm_of(FAMILIES)
    start = 0
    for family in FAMILIES:
        assert sum(part[start : start + len(family.bins)]) <= family.weight * UNIT
        start += len(family.bins)


@settings(max_examples=10)
@given(st.lists(USER, max_size=4), st.randoms())
def test_the_order_of_users_and_of_their_examples_does_not_show(users, random):
    shuffled = [UserExamples(examples=tuple(random.sample(one.examples, len(one.examples)))) for one in users]
    random.shuffle(shuffled)
    assert sum_of(shuffled) == sum_of(users)
