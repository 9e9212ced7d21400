"""A tenant's latency budget: what a choice costs, and which levers are dropped, in a stated order, to stay within it.

Costs are what this process measured, per lever, as a p99: a budget is a promise about slow requests. The function that
chooses is pure. The base's own answer always stays.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Lever(StrEnum):
    """What may be done for a request beside the base's own answer."""

    RETRIEVAL = "retrieval"  # the user's memory is looked up
    CONSTRAINT = "constraint"  # answers are held to a pattern or grammar while they are made
    TERMS = (
        "terms"  # a prompt is told of the terms that it speaks of; to put them right in answers takes no time
    )
    TEMPLATE = "template"  # words and examples around the prompt, which the engine has to read
    ADAPTER = "adapter"  # an adapter that is loaded


# The first is dropped first: what costs most for what it gives. A candidate that answers silently does so after the
# answer, and an adapter that is not loaded is not waited for, so neither takes time that could be saved.
DROP_ORDER: Final = (Lever.RETRIEVAL, Lever.CONSTRAINT, Lever.TERMS, Lever.TEMPLATE, Lever.ADAPTER)


@dataclass(frozen=True, kw_only=True)
class LatencyChoice:
    """Which levers a request gets.

    Attributes:
        kept: in ``DROP_ORDER``.
        dropped: in the order in which they were.
        expected_ms: of the engine and what is kept, with what has passed already.
        within: whether that is inside the budget; False where the engine alone is slower, and everything was dropped.
        limit_ms: the budget that it was chosen by; infinite for none.
    """

    kept: tuple[Lever, ...]
    dropped: tuple[Lever, ...]
    expected_ms: float
    within: bool
    limit_ms: float = math.inf


def choose_levers(
    budget_ms: float | None,
    wanted: Collection[Lever],
    costs_ms: Mapping[Lever, float],
    *,
    engine_ms: float,
    spent_ms: float = 0.0,
) -> LatencyChoice:
    """Drop levers until what is left fits the budget.

    Args:
        budget_ms: of the tenant; None has no limit.
        wanted: what the request would get.
        costs_ms: of each lever, milliseconds; one that was never measured costs nothing yet, so that it is tried.
        engine_ms: the queue and the base's own answer, which cannot be dropped.
        spent_ms: that have passed already.

    Raises:
        ValueError: a budget or cost that is negative or not finite.
    """
    told = [engine_ms, spent_ms, *costs_ms.values(), *([] if budget_ms is None else [budget_ms])]
    if not all(math.isfinite(value) and value >= 0 for value in told):
        raise ValueError("a latency budget and its costs are finite milliseconds of 0 or more")
    kept = [lever for lever in DROP_ORDER if lever in wanted]
    dropped: list[Lever] = []
    limit = math.inf if budget_ms is None else budget_ms

    def expected() -> float:
        return spent_ms + engine_ms + math.fsum(costs_ms.get(lever, 0.0) for lever in kept)

    for lever in tuple(kept):
        if expected() <= limit:
            break
        if costs_ms.get(lever, 0.0) > 0:  # dropping what costs nothing gains nothing
            kept.remove(lever)
            dropped.append(lever)
    return LatencyChoice(
        kept=tuple(kept),
        dropped=tuple(dropped),
        expected_ms=expected(),
        within=expected() <= limit,
        limit_ms=limit,
    )


_FIRST_MS: Final = 0.05
_GROWTH: Final = 1.25
_BUCKETS: Final = 72  # up to about seven minutes
_FORGET_AT: Final = 4096  # observations, after which all counts are halved: old times fade
_LARGEST_MS: Final = _FIRST_MS * _GROWTH ** (_BUCKETS - 1)


class LeverTimes:
    """How long each lever took lately: p50 and p99 within a quarter of the truth, in bounded memory.

    ``None`` stands for plain answers, which no lever was used for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Lever | None, list[float]] = {lever: [0.0] * _BUCKETS for lever in (None, *Lever)}
        self._totals: dict[Lever | None, float] = dict.fromkeys((None, *Lever), 0.0)

    def observe(self, lever: Lever | None, milliseconds: float) -> None:
        """Take one measured time.

        Raises:
            ValueError: it is negative or not finite.
        """
        if not (math.isfinite(milliseconds) and milliseconds >= 0):
            raise ValueError(f"a lever took {milliseconds} ms; allowed are finite times of 0 or more")
        place = 0
        if milliseconds > _FIRST_MS:
            place = math.ceil(math.log(min(milliseconds, _LARGEST_MS) / _FIRST_MS) / math.log(_GROWTH) - 1e-9)
        with self._lock:
            self._counts[lever][place] += 1
            self._totals[lever] += 1
            if self._totals[lever] >= _FORGET_AT:
                self._counts[lever] = [count / 2 for count in self._counts[lever]]
                self._totals[lever] /= 2

    def forget(self, lever: Lever | None) -> None:
        """Begin anew with one lever, or with plain answers."""
        with self._lock:
            self._counts[lever] = [0.0] * _BUCKETS
            self._totals[lever] = 0.0

    def count(self, lever: Lever | None) -> float:
        """Return how many times count; old ones count less."""
        return self._totals[lever]

    def quantile(self, lever: Lever | None, share: float) -> float | None:
        """Return the time that a share of a lever's uses stayed below, milliseconds; None of one never used."""
        with self._lock:
            total, counts = self._totals[lever], tuple(self._counts[lever])
        if not total:
            return None
        seen = 0.0
        for place, count in enumerate(counts):
            seen += count
            if seen >= share * total:
                return _FIRST_MS * _GROWTH**place
        return _LARGEST_MS

    def costs(self, share: float = 0.99) -> dict[Lever, float]:
        """Return each measured lever's cost for ``choose_levers``."""
        found = {lever: self.quantile(lever, share) for lever in Lever}
        return {lever: value for lever, value in found.items() if value is not None}
