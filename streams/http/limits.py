"""Rates by key: so many at once, then so many a second; in memory, bounded, with seconds that only grow."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MOST_KEYS = 10_000


class RateLimit:
    """A bucket per key; each holds ``burst`` and is filled again by ``per_second``.

    Args:
        burst: how many may come at once.
        per_second: how many more a second.
        monotonic: seconds that only grow.
    """

    def __init__(
        self, *, burst: int, per_second: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._monotonic = monotonic
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # what is left, since when

    def wait(self, key: Hashable) -> float:
        """Return for how many seconds ``key`` must wait; 0 when it may come."""
        return max(0.0, (1.0 - self._left(key)) / self._per_second)

    def take(self, key: Hashable) -> float:
        """Count one of ``key`` if it may come, and return 0; else return for how many seconds it must wait."""
        left = self._left(key)
        if left < 1.0:
            return (1.0 - left) / self._per_second
        self._set(key, left - 1.0)
        return 0.0

    def _left(self, key: Hashable) -> float:
        left, since = self._buckets.get(key, (float(self._burst), self._monotonic()))
        return min(float(self._burst), left + (self._monotonic() - since) * self._per_second)

    def _set(self, key: Hashable, left: float) -> None:
        self._buckets[key] = left, self._monotonic()
        self._buckets.move_to_end(key)
        while len(self._buckets) > MOST_KEYS:  # who came longest ago has the fullest bucket
            self._buckets.popitem(last=False)
