"""Paired estimates over clusters of items, with intervals that hold on small suites.

Items of one wording succeed and fail together, so wordings are what is resampled: an interval over items would be far
too narrow (a naive paired bootstrap rejects a true null several times too often). Few clusters want Student's t over
their means rather than a normal interval; shares of successes get Clopper–Pearson.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its two-sided interval.

    Attributes:
        mean: over clusters, each of equal weight.
        low: lower end; −inf where fewer than two clusters were seen.
        high: upper end.
        clusters: how many.
    """

    mean: float
    low: float
    high: float
    clusters: int


def clustered_mean(
    values: Sequence[float], clusters: Sequence[str], *, confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean of ``values`` with an interval over clusters.

    Raises:
        ValueError: nothing to average, or the lengths differ.
    """
    from scipy.stats import t  # noqa: PLC0415  # half a second to import; the job's plain values need none of it

    if not values or len(values) != len(clusters):
        raise ValueError("a mean takes at least one value, and one cluster for each")
    by_cluster: dict[str, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster.setdefault(cluster, []).append(value)
    means = np.array([np.mean(each) for each in by_cluster.values()])
    mean, count = float(means.mean()), len(means)
    if count < 2:  # one cluster says nothing about others
        return Estimate(mean=mean, low=-math.inf, high=math.inf, clusters=count)
    half = float(t.ppf(0.5 + confidence / 2, count - 1) * means.std(ddof=1) / math.sqrt(count))
    return Estimate(mean=mean, low=mean - half, high=mean + half, clusters=count)


@lru_cache(maxsize=8)
def _exposure_tail(ranks: int, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all sums of ``ranks`` uniform ranks and the probability of a sum as small or smaller."""
    one = np.full(candidates, 1.0 / candidates)
    total = np.ones(1)
    for _ in range(ranks):
        total = np.convolve(total, one)
    return np.arange(ranks, ranks * candidates + 1), np.cumsum(total)


def rank_test(ranks: Sequence[int], candidates: int) -> float:
    """Return the exact p-value that secrets rank this high by chance.

    Args:
        ranks: of each secret digit among its candidates, 1 the likeliest; uniform and independent where nothing of it
            was memorised, because each digit was drawn by itself.
        candidates: how many there are for each.

    Raises:
        ValueError: no rank, or one outside 1 to ``candidates``.
    """
    if not ranks or not all(1 <= rank <= candidates for rank in ranks):
        raise ValueError(f"a rank test takes at least one rank of 1 to {candidates}")
    sums, below = _exposure_tail(len(ranks), candidates)
    return float(min(1.0, below[np.searchsorted(sums, sum(ranks))]))
