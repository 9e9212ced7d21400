"""Intervals that hold on few items: their coverage and the exact null of planted secrets, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from personalization.suites.estimates import clustered_mean, rank_test


def test_intervals_over_clusters_hold_where_items_of_a_cluster_move_together():
    rng = np.random.default_rng(5)
    clusters = [f"c{number // 10}" for number in range(80)]
    missed = 0
    for _ in range(1000):
        common = np.repeat(rng.normal(size=8), 10)
        values = common + 0.6 * rng.normal(size=80)
        found = clustered_mean(values.tolist(), clusters)
        missed += not found.low <= 0.0 <= found.high
    assert missed / 1000 == pytest.approx(0.05, abs=0.025)


def test_one_cluster_tells_nothing():
    found = clustered_mean([0.1, 0.2], ["a", "a"])
    assert found.low == -np.inf
    with pytest.raises(ValueError, match="at least one value"):
        clustered_mean([], [])


def test_ranks_by_chance_are_called_memorised_no_more_often_than_said():
    rng = np.random.default_rng(6)
    values = np.array([rank_test(rng.integers(1, 11, size=24).tolist(), 10) for _ in range(2000)])
    assert (values <= 0.05).mean() <= 0.065
    assert (values <= 0.05).mean() >= 0.03
    assert rank_test([1] * 6, 10) == pytest.approx(1e-6)
    assert rank_test([10] * 6, 10) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="rank of 1 to 10"):
        rank_test([11], 10)
