"""The tenant-level noise is standard normal, repeats under its key, and differs under another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from personalization.tenant_noise import normals_of, on_lattice


def test_the_numbers_are_standard_normal_and_independent():
    values = normals_of(bytes(range(32)))(40_000)
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


def test_a_key_repeats_its_numbers_and_a_stream_never_repeats_itself():
    first, again, other = normals_of(bytes(32)), normals_of(bytes(32)), normals_of(bytes([1] * 32))
    one, two = first(5), first(5)
    np.testing.assert_array_equal(again(5), one)
    np.testing.assert_array_equal(again(5), two)
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, other(5))
    with pytest.raises(ValueError, match="has 31 bytes"):
        normals_of(bytes(31))


def test_a_noisy_sum_keeps_no_digits_below_its_lattice():
    values = np.random.default_rng(0).normal(size=1000) * 3.0
    rounded = on_lattice(values, 3.0)
    assert set(np.unique(np.mod(rounded, 2.0**-7))) == {0.0}
    assert np.abs(rounded - values).max() <= 2.0**-8
