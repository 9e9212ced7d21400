"""Bootstrap intervals over users. Seeds are fixed, so the same losses always give the same interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval over users."""

    value: float
    low: float
    high: float

    def to_document(self) -> dict[str, float]:
        """Return a JSON-ready copy."""
        return asdict(self)

    def touches(self, other: Interval) -> bool:
        """Say whether the two intervals overlap."""
        return self.low <= other.high and other.low <= self.high


def mean_interval(losses: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the macro mean over users with its interval.

    Raises:
        ValueError: there is no user.
    """
    if not losses:
        raise ValueError("a mean over users needs at least one user")
    values = np.asarray(losses, dtype=np.float64)
    means = values[_resampled(len(values), seed)].mean(axis=1)
    return Interval(float(values.mean()), *_quantiles(means))


def difference_interval(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of ``ours − theirs`` with its interval; the items are the same, so they are resampled in pairs.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(ours) != len(theirs):
        raise ValueError("a difference in pairs needs values of the same items")
    return mean_interval(
        [float(mine) - float(other) for mine, other in zip(ours, theirs, strict=True)], seed=seed
    )


def recovery_interval(
    base: Sequence[float], private: Sequence[float], open_: Sequence[float], *, seed: int = 0
) -> Interval:
    """Return the share of the non-private gain that a private adapter keeps; users are resampled in pairs.

    Args:
        base: loss of each user under the base model.
        private: under the private adapter.
        open_: under the non-private adapter.
        seed: of the resampling.

    Raises:
        ValueError: the lists differ in length, or the non-private adapter gains nothing.
    """
    if not len(base) == len(private) == len(open_):
        raise ValueError("base, private and non-private losses must be of the same users")
    losses = np.stack([np.asarray(part, dtype=np.float64) for part in (base, private, open_)])
    gain = float((losses[0] - losses[2]).mean())
    if gain <= 0:
        raise ValueError("the non-private adapter gains nothing, so there is nothing to recover")
    means = losses[:, _resampled(losses.shape[1], seed)].mean(axis=2)
    denominator = means[0] - means[2]
    # A resample without any non-private gain has no share to recover; it is left out.
    shares = (means[0] - means[1])[denominator > 0] / denominator[denominator > 0]
    return Interval(float((losses[0] - losses[1]).mean()) / gain, *_quantiles(shares))


def _resampled(users: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, users, size=(RESAMPLES, users))


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
