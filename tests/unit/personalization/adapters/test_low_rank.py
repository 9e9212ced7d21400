"""The mean of low-rank updates is the nearest of their rank, whatever they are factored into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalization.adapters.low_rank import mean_update


def update(random, rank, inputs=9, outputs=7):
    return random.normal(size=(rank, inputs)), random.normal(size=(outputs, rank))


def product(factors):
    return factors[1] @ factors[0]


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 4), share=st.floats(0, 1))
def test_nothing_of_the_rank_is_nearer(seed, rank, share):
    random = np.random.default_rng(seed)
    left, right = update(random, rank), update(random, rank)
    found = mean_update(left, right, share=share)
    assert (found[0].shape, found[1].shape) == (right[0].shape, right[1].shape)
    mean = share * product(left) + (1 - share) * product(right)
    left_out = np.linalg.svd(mean, compute_uv=False)[rank:]
    assert np.linalg.norm(product(found) - mean) == pytest.approx(np.linalg.norm(left_out), abs=1e-9)


def test_of_updates_in_one_subspace_the_mean_is_exact_whatever_their_factors():
    random = np.random.default_rng(0)
    down, turn = random.normal(size=(3, 9)), random.normal(size=(3, 3))
    left, right = (down, random.normal(size=(7, 3))), (turn @ down, random.normal(size=(7, 3)))
    found = mean_update(left, right, share=0.25)
    np.testing.assert_allclose(product(found), 0.25 * product(left) + 0.75 * product(right), atol=1e-12)


def test_a_side_that_is_shorter_than_the_rank_leaves_the_rest_of_the_factors_zero():
    random = np.random.default_rng(2)
    left, right = update(random, 4, inputs=3), update(random, 4, inputs=3)
    found = mean_update(left, right, share=0.5)
    assert found[0].shape == (4, 3)
    np.testing.assert_allclose(product(found), (product(left) + product(right)) / 2, atol=1e-12)


def test_the_mean_with_nothing_is_the_share_of_the_rest():
    one = update(np.random.default_rng(1), 2)
    nothing = (one[0], np.zeros_like(one[1]))
    np.testing.assert_allclose(product(mean_update(nothing, one, share=0.5)), product(one) / 2, atol=1e-12)
