"""The bound holds, whatever the order and the batches, and depends on that user's signals only."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalization.signals.bound import Contribution, reduce
from privacy.keys.pseudonyms import eviction_rank, pseudonym

KEY = bytes(range(32))
events = st.lists(st.binary(min_size=1, max_size=8), max_size=40)
bounds = st.integers(1, 10)


def signals(digests, user="u"):
    return [Contribution(eviction_rank(KEY, user, digest), digest) for digest in digests]


def stored_after(batches, bound):
    """What a store holds after these batches arrived one after the other."""
    stored = frozenset()
    for batch in batches:
        change = reduce(stored, batch, bound)
        assert change.kept == (stored | change.entering) - change.evicted
        stored = change.kept
    return stored


@given(events, bounds, st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=5))
def test_order_and_batches_do_not_matter(digests, bound, random, cuts):
    everything = signals(digests)
    shuffled = random.sample(everything, len(everything))
    edges = [0, *sorted(min(cut, len(shuffled)) for cut in cuts), len(shuffled)]
    batches = [shuffled[start:end] for start, end in pairwise(edges)]
    assert stored_after(batches, bound) == stored_after([everything], bound)


@given(events, bounds)
def test_the_bound_holds_and_the_smallest_ranks_stay(digests, bound):
    kept = stored_after([signals(digests)], bound)
    assert len(kept) == min(bound, len(set(digests)))
    assert kept == set(sorted(set(signals(digests)))[:bound])


@given(events, bounds)
def test_a_repeated_signal_changes_nothing(digests, bound):
    once = stored_after([signals(digests)], bound)
    again = reduce(once, signals(digests), bound)
    assert (again.entering, again.evicted) == (frozenset(), frozenset())


@given(st.dictionaries(st.sampled_from("abc"), events, min_size=2), bounds)
def test_one_user_more_or_less_changes_no_other_user(by_user, bound):
    def state(users):
        return {user: stored_after([signals(users[user], user)], bound) for user in users}

    removed = min(by_user)
    without = {user: digests for user, digests in by_user.items() if user != removed}
    assert state(without) == {user: kept for user, kept in state(by_user).items() if user != removed}


@given(st.text(), st.text())
def test_pseudonyms_separate_users_and_tenants(first, second):
    one = pseudonym(KEY, "acme", first)
    assert (one == pseudonym(KEY, "acme", second)) == (first == second)
    assert one != pseudonym(KEY, "beta", first)
    assert one != pseudonym(KEY[::-1], "acme", first)


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="bound is 0"):
        reduce([], [], 0)
