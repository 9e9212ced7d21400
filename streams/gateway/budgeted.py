"""Keep answers within a tenant's latency budget: what a request would get is dropped, in a stated order, until it fits.

What levers cost is measured here. A request's time beyond that of plain answers is noted for the first lever in the
order of dropping that it had: what is dropped first is blamed first, and where it was not to blame, the next one is
found out after it. Times are those that users see: until an answer is there, or a stream's first piece.
"""

from __future__ import annotations

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
        budgets_ms: by tenant, milliseconds; who has none is measured and never cut.
        told: told of each lever that was dropped, and ``over`` of each request that is expected to be late with nothing
            left to drop.
    """

    def __init__(self, budgets_ms: Mapping[str, float], told: Callable[[str], None]) -> None:
        self._budgets = dict(budgets_ms)
        self._told = told
        self._times = {False: LeverTimes(), True: LeverTimes()}
        self._asked: dict[str, int] = defaultdict(int)

    def fit(self, tenant_id: str, wanted: Collection[Lever], *, stream: bool) -> LatencyChoice:
        """Return which levers of those wanted a request gets."""
        budget = self._budgets.get(tenant_id)
        if budget is not None:
            self._asked[tenant_id] += 1
            if self._asked[tenant_id] % TRIED_EVERY == 0:
                budget = None
        times = self._times[stream]
        plain = times.quantile(None, 0.99) if times.count(None) >= FEWEST else None
        costs = {
            lever: cost
            for lever, cost in times.costs().items()
            if lever is not None and times.count(lever) >= FEWEST
        }
        choice = choose_levers(budget, wanted, costs, engine_ms=plain or 0.0)
        for lever in choice.dropped:
            self._told(lever.value)
        if not choice.within:
            self._told("over")
        return choice

    def observe(self, kept: Collection[Lever], seconds: float, *, stream: bool) -> None:
        """Note how long an answer took that was made with some levers."""
        times, milliseconds = self._times[stream], seconds * 1e3
        first = next((lever for lever in DROP_ORDER if lever in kept), None)
        if first is not None:
            milliseconds = max(0.0, milliseconds - (times.quantile(None, 0.5) or 0.0))
        times.observe(first, milliseconds)
        if first is None and times.count(None) == FEWEST:
            for lever in Lever:  # until now their times held the engine's own
                times.forget(lever)

    def quantile(self, lever: Lever | None, share: float, *, stream: bool) -> float:
        """Return a lever's time in seconds, or of plain answers where ``lever`` is None; NaN while there is none."""
        found = self._times[stream].quantile(lever, share)
        return float("nan") if found is None else found / 1e3
