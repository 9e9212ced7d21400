"""The public lattice: what is added is never longer than the bound, whatever the floats were."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.noise import lattice

numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(values=st.lists(numbers, min_size=1, max_size=8), bound=st.floats(1e-9, 1e9))
@settings(deadline=None)
def test_a_contribution_is_whole_and_never_longer_than_the_bound(values, bound):
    whole = lattice.on_lattice(np.array(values), bound)
    assert whole.dtype == np.int64
    assert sum(int(number) ** 2 for number in whole) <= lattice.REACH**2


@given(values=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8), bound=st.floats(0.1, 10))
@settings(deadline=None)
def test_a_short_contribution_is_rounded_and_a_long_one_keeps_nearly_the_bound(values, bound):
    vector = np.array(values)
    length = float(np.linalg.norm(vector))
    kept = lattice.on_lattice(vector, bound) * lattice.unit(bound)
    factor = min(1.0, lattice.inner_reach(len(vector)) * lattice.unit(bound) / length) if length else 1.0
    assert np.abs(kept - vector * factor).max() <= 0.5001 * lattice.unit(bound)
    assert np.linalg.norm(kept) >= min(length, bound) * (1 - 1e-5) - bound * 1e-5


def test_a_contribution_that_is_not_finite_is_zero():
    for value in (math.nan, math.inf, -math.inf, 1e200):
        assert not lattice.on_lattice(np.array([1.0, value]), 1.0).any()


@pytest.mark.parametrize("deviation", [0.3, 1.0, 255.0, 256.0, 0.05 * 2**20, 2.0**20, 1e4 * 2**20])
def test_the_released_multiple_is_a_power_of_two_that_is_small_beside_the_noise(deviation):
    step = 2 ** lattice.coarse_bits(deviation)
    assert step == 1 or deviation / 512 < step <= deviation / 256
    assert step > 1 or deviation < 512


def test_more_users_than_an_exact_sum_holds_are_refused():
    lattice.check_rows(10**9)  # the most that a policy may declare
    with pytest.raises(ValueError, match="allows fewer than 4398046511104"):
        lattice.check_rows(lattice.MOST_ROWS)
    assert lattice.MOST_ROWS * lattice.REACH == 2**62
    with pytest.raises(ValueError, match="allows fewer than"):
        lattice.inner_reach(2**42)


def test_the_unit_is_exact():
    for bound in (0.1, 1e-9, 3.7, 1e6):
        assert lattice.unit(bound) * lattice.REACH == bound
