"""A candidate answers beside the version that is shown; its answer is compared, counted and thrown away.

It is asked after the user has the answer, only while few others are, and in a place of the tenant's own requests where
half of those are free: nobody waits for it, and the engine gets no more at once than it may.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from streams.errors import GatewayError
from streams.gateway import answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.gateway.limits import Places
    from streams.gateway.upstreams import Call, Upstream

MOST: Final = 4  # at once


class Shadow:
    """Asks candidates silently; for one event loop.

    Args:
        told: of each comparison how it ended (``same``, ``differs``, ``failed``, or ``skipped`` where too many were
            under way) and how many seconds the candidate took.
        places: bounds on requests in progress, its own among them.
        most: comparisons at once.
    """

    def __init__(self, told: Callable[[str, float], None], places: Places, *, most: int = MOST) -> None:
        self._told = told
        self._places = places
        self._most = most
        self._under_way: set[asyncio.Task[None]] = set()

    def ask(self, upstream: Upstream, call: Call, shown: str) -> None:
        """Have a candidate answer what another version answered with ``shown``."""
        if len(self._under_way) >= self._most or not self._places.take_spare(call.tenant):
            self._told("skipped", 0.0)
            return
        task = asyncio.ensure_future(self._compare(upstream, call, shown))
        self._under_way.add(task)
        task.add_done_callback(lambda ended: self._end(ended, call.tenant))

    async def close(self) -> None:
        """End what is under way."""
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _end(self, ended: asyncio.Task[None], tenant_id: str) -> None:
        self._under_way.discard(ended)
        self._places.give_back(tenant_id)

    async def _compare(self, upstream: Upstream, call: Call, shown: str) -> None:
        start = time.monotonic()
        try:
            said = answers.said(call.form, await upstream.whole(call))
        except GatewayError:
            self._told("failed", time.monotonic() - start)
            return
        self._told("same" if said == shown else "differs", time.monotonic() - start)
