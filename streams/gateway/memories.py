"""Look a request's question up in its tenant's approved documents, in time or not at all.

The tenant is the token's, as everywhere here. What is found goes before the prompt; where it came from goes into a
header, never what it says. A memory that cannot be asked in time leaves the request as it is, and the header says so.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from personalization.memory.values import AWAY, Found
from privacy.errors import DiscreetError
from streams.gateway.leaving import unless_gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from streams.gateway.callers import Caller
    from streams.gateway.directory import Directory
    from streams.gateway.planned import Plan
    from streams.gateway.requests import Ask

log = structlog.get_logger(__name__)

THREADS: Final = 2  # looking something up is work of the processor
MOST_WAITING: Final = 64  # beyond it requests are answered without


class Memories:
    """Looks questions up, in threads of its own; for one event loop.

    Args:
        find: gets tenant, domain and question, and may take long.
        seconds: how long a request waits.
        told: gets the outcome of each.
    """

    def __init__(
        self, find: Callable[[str, str, str], Found], *, seconds: float, told: Callable[[str], None]
    ) -> None:
        self._find = find
        self._seconds = seconds
        self._told = told
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gateway-memory")
        self._waiting = 0

    async def find(
        self, tenant_id: str, domain: str, question: str, *, room: float | None = None
    ) -> Found | None:
        """Return what a tenant's memory holds on a question; ``AWAY`` where it does not tell in time.

        Args:
            tenant_id: whose.
            domain: for which it was approved.
            question: as it was asked.
            room: seconds that are waited where they are fewer than those of every request; after them ``None`` comes.
        """
        wait = self._seconds if room is None else min(room, self._seconds)
        found: Found | None = AWAY
        if self._waiting < MOST_WAITING:
            work = asyncio.get_running_loop().run_in_executor(
                self._threads, self._find, tenant_id, domain, question
            )
            self._waiting += 1
            work.add_done_callback(self._done)
            try:
                found = await asyncio.wait_for(asyncio.shield(work), wait)
            except TimeoutError:
                log.warning("memory_too_slow", tenant=tenant_id)
                found = AWAY if wait == self._seconds else None
            except DiscreetError as error:
                log.warning("memory_not_asked", tenant=tenant_id, code=error.code)
            except Exception as error:  # noqa: BLE001  # a library's own words may hold what somebody wrote
                log.error("memory_failed", tenant=tenant_id, error=type(error).__name__)  # noqa: TRY400  # as above
        self._told((found or AWAY).outcome.value)
        return found

    def _done(self, work: asyncio.Future[Found]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # was told, or nobody waits for it any more

    def close(self) -> None:
        """Start nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def has_memory(directory: Directory, caller: Caller, ask: Ask) -> bool:
    """Say whether a request is looked up: its tenant has documents for its domain, and notes may stand before it."""
    domains = directory.memories.get(caller.tenant_id, frozenset())
    return ask.prompt is not None and ask.domain is not None and bool(domains & {"", ask.domain})


async def looked_up(memories: Memories | None, request: Request, plan: Plan, *, room: float | None) -> Plan:
    """Return a plan with what its tenant's documents hold on the question, where it has any.

    Args:
        memories: where to look.
        request: whose client may leave.
        plan: of it.
        room: seconds that its latency budget leaves for looking; a memory that takes longer is left out.

    Raises:
        ClientLeftError: nobody waits for it.
    """
    ask = plan.ask
    if memories is None or not plan.has_memory or ask.prompt is None or ask.domain is None:
        return plan
    if room is not None and room <= 0:
        return plan.without_memory()
    start = time.monotonic()
    asked = memories.find(plan.caller.tenant_id, ask.domain, ask.prompt, room=room)
    found = await unless_gone(request, asked)
    took = time.monotonic() - start
    if found is None:
        return replace(plan.without_memory(), looked_seconds=took)
    return replace(plan, found=found, looked_seconds=took)
