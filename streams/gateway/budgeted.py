"""Keep answers within a tenant's latency budget: what a request would get is dropped, in a stated order, until it fits.

What levers cost is measured here, for each tenant that has a budget by itself: answers of one tenant, however long,
drop nothing of another's. What was measured is not all: what a request itself has spent counts too. The memory is
waited for as long as the others leave room, and after it the rest has to fit into what is left.

A request's time beyond that of plain answers is noted for the first lever in the order of dropping that it had: what is
dropped first is blamed first, and where it was not to blame, the next one is found out after it. Times are those that
users see: until an answer is there, or a stream's first piece.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from streams.client.routing import DROP_ORDER, LatencyChoice, Lever, LeverTimes, choose_levers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

TRIED_EVERY: Final = (
    128  # requests of a tenant; one with everything, else what became faster would never be found out
)
FEWEST: Final = 16  # measured times of a lever before it is dropped for them


class LatencyBudgets:
    """Budgets of tenants and what levers cost lately; for one event loop.

    Args:
        budgets_ms: by tenant, milliseconds; who has none is never cut. Times are kept of these tenants, and of all
            together for the metrics, so the memory is bounded by the setting.
        told: told of each lever that was dropped, and ``over`` of each request that is expected to be late with nothing
            left to drop.
    """

    def __init__(self, budgets_ms: Mapping[str, float], told: Callable[[str], None]) -> None:
        self._budgets = dict(budgets_ms)
        self._told = told
        self._times = {tenant_id: _Times() for tenant_id in self._budgets}
        self._all = _Times()
        self._asked: dict[str, int] = defaultdict(int)

    def fit(
        self, tenant_id: str, wanted: Collection[Lever], *, stream: bool, spent: float = 0.0
    ) -> LatencyChoice:
        """Return which levers of those wanted a request gets that came ``spent`` seconds ago."""
        budget = self._budgets.get(tenant_id)
        if budget is None:
            return choose_levers(None, wanted, {}, engine_ms=0.0)
        self._asked[tenant_id] += 1
        tried = self._asked[tenant_id] % TRIED_EVERY == 0
        choice = self._fit(tenant_id, None if tried else budget, wanted, stream=stream, spent=spent)
        if not choice.within:
            self._told("over")
        return choice

    def fit_rest(
        self, tenant_id: str, before: LatencyChoice, wanted: Collection[Lever], *, stream: bool, spent: float
    ) -> LatencyChoice:
        """Return which levers a request still gets, some of whose time has passed since it was fitted first."""
        if math.isinf(before.limit_ms):
            return before
        choice = self._fit(tenant_id, before.limit_ms, wanted, stream=stream, spent=spent)
        if before.within and not choice.within:
            self._told("over")
        return choice

    def room(self, tenant_id: str, fitted: LatencyChoice, lever: Lever, *, stream: bool) -> float | None:
        """Return how many seconds a lever may take before others have to go for it; ``None`` for any number."""
        if math.isinf(fitted.limit_ms):
            return None
        own = self._costs(tenant_id, stream=stream).get(lever, 0.0) if lever in fitted.kept else 0.0
        return max(0.0, fitted.limit_ms - fitted.expected_ms + own) / 1e3

    def _costs(self, tenant_id: str, *, stream: bool) -> dict[Lever, float]:
        times = self._times[tenant_id].of(stream=stream)
        return {lever: cost for lever, cost in times.costs().items() if times.count(lever) >= FEWEST}

    def _fit(
        self, tenant_id: str, budget: float | None, wanted: Collection[Lever], *, stream: bool, spent: float
    ) -> LatencyChoice:
        times = self._times[tenant_id].of(stream=stream)
        plain = times.quantile(None, 0.99) if times.count(None) >= FEWEST else None
        costs = self._costs(tenant_id, stream=stream)
        choice = choose_levers(budget, wanted, costs, engine_ms=plain or 0.0, spent_ms=spent * 1e3)
        for lever in choice.dropped:
            self._told(lever.value)
        return choice

    def observe(self, tenant_id: str, kept: Collection[Lever], seconds: float, *, stream: bool) -> None:
        """Note how long an answer to a tenant took that was made with some levers."""
        first = next((lever for lever in DROP_ORDER if lever in kept), None)
        for times in filter(None, (self._all, self._times.get(tenant_id))):
            times.observe(first, seconds * 1e3, stream=stream)

    def gave_up(self, tenant_id: str, lever: Lever, seconds: float, *, stream: bool) -> None:
        """Note a lever that was waited for so long in vain: it takes at least that; 0 where no time was left."""
        self._told(lever.value)
        for times in filter(None, (self._all, self._times.get(tenant_id)) if seconds > 0 else ()):
            times.of(stream=stream).observe(lever, seconds * 1e3)

    def quantile(self, lever: Lever | None, share: float, *, stream: bool) -> float:
        """Return a lever's time over all tenants in seconds, of plain answers for None; NaN while there is none."""
        found = self._all.of(stream=stream).quantile(lever, share)
        return float("nan") if found is None else found / 1e3


class _Times:
    """What levers took lately: of answers in one piece, and of streams."""

    def __init__(self) -> None:
        self._of = {False: LeverTimes(), True: LeverTimes()}

    def of(self, *, stream: bool) -> LeverTimes:
        return self._of[stream]

    def observe(self, first: Lever | None, milliseconds: float, *, stream: bool) -> None:
        """Note an answer's time for the first lever in the order of dropping; ``None`` is a plain one."""
        times = self._of[stream]
        if first is not None:
            milliseconds = max(0.0, milliseconds - (times.quantile(None, 0.5) or 0.0))
        times.observe(first, milliseconds)
        if first is None and times.count(None) == FEWEST:
            for lever in Lever:  # until now their times held the engine's own
                times.forget(lever)
