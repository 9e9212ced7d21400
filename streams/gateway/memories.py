"""Look a request's question up in its tenant's approved documents, in time or not at all.

The tenant is the token's, as everywhere here. What is found goes before the prompt; where it came from goes into a
header, never what it says. A memory that cannot be asked in time leaves the request as it is, and the header says so.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
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

THREADS: Final = 4  # looking something up is work of the processor, and a large index is read for seconds
MOST_LATE: Final = (
    6  # more threads, in the place of late ones; all ten leave the pool five of its fifteen connections
)
AT_ONCE: Final = (
    2  # of one tenant: its look-ups wait for the same index, and must not hold every thread meanwhile
)
MOST_WAITING: Final = 64  # beyond it requests are answered without
MOST_OF_TENANT: Final = 16


class Away(StrEnum):
    """Why a question was answered without the memory."""

    FULL = "full"  # too many questions of all tenants wait
    TENANT_FULL = "tenant_full"  # too many of its own do
    SLOW = "slow"
    FAILED = "failed"


@dataclass(eq=False)
class _Look:
    """A question that waits, or is looked up now."""

    tenant_id: str
    domain: str
    question: str
    user: str | None
    answer: asyncio.Future[Found]
    late: asyncio.TimerHandle | None = None  # notes, once it was started, that it takes too long


class Memories:
    """Looks questions up, each in a thread that ends with the process at the latest; for one event loop.

    Tenants take turns, and each has a bound on its threads and places; so a large or slow memory makes only its own
    tenant's look-ups late. A look-up that takes longer than requests wait is *late*: nobody waits for it, and it cannot
    be ended. Another thread takes the place of its own, up to ``MOST_LATE`` in all, and its tenant gets no second one
    meanwhile. So tenants whose indexes are stuck leave all ``THREADS`` to the others, as long as no more than
    ``MOST_LATE`` threads are late.

    Args:
        find: gets tenant, domain, question and who asks, for the draw of candidates; it may take long.
        seconds: how long a request waits.
        told: gets the outcome of each.
        away: gets why, where one was answered without.
        not_signed: gets each kind of what a question was not looked up in, because it is not what was signed.
    """

    def __init__(
        self,
        find: Callable[[str, str, str, str | None], Found],
        *,
        seconds: float,
        told: Callable[[str], None],
        away: Callable[[str], None] = lambda _: None,
        not_signed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._find = find
        self._seconds = seconds
        self._told = told
        self._away = away
        self._not_signed = not_signed
        self._closed = False
        self._in_time: dict[_Look, threading.Thread] = {}
        self._waiting: OrderedDict[str, deque[_Look]] = OrderedDict()  # whose turn is next comes first
        self._running: Counter[str] = Counter()
        self._late: Counter[str] = Counter()  # of these, who takes longer than requests wait
        self._places: Counter[str] = Counter()  # waiting and running

    async def find(
        self,
        tenant_id: str,
        domain: str,
        question: str,
        *,
        user: str | None = None,
        room: float | None = None,
    ) -> Found | None:
        """Return what a tenant's memory holds on a question; ``AWAY`` where it does not tell in time.

        Args:
            tenant_id: whose.
            domain: for which it was approved.
            question: as it was asked.
            user: who asks; without a name nobody is answered from a candidate.
            room: seconds that are waited where they are fewer than those of every request; after them ``None`` comes.
        """
        wait = self._seconds if room is None else min(room, self._seconds)
        found = AWAY
        away = self._full(tenant_id)
        if away is None:
            look = _Look(tenant_id, domain, question, user, asyncio.get_running_loop().create_future())
            self._waiting.setdefault(tenant_id, deque()).append(look)
            self._places[tenant_id] += 1
            self._start()
            try:
                found = await asyncio.wait_for(asyncio.shield(look.answer), wait)
            except TimeoutError:
                if wait < self._seconds:
                    return None  # the memory may be as fast as ever: it is counted where levers are dropped
                away = Away.SLOW
                log.warning("memory_too_slow", tenant=tenant_id)
            except DiscreetError as error:
                away = Away.FAILED
                log.warning("memory_not_asked", tenant=tenant_id, code=error.code)
            except Exception as error:  # noqa: BLE001  # a library's own words may hold what somebody wrote
                away = Away.FAILED
                log.error("memory_failed", tenant=tenant_id, error=type(error).__name__)  # noqa: TRY400  # as above
            finally:
                self._drop(look)
        if away is not None:
            self._away(away.value)
        for what in found.unsigned:
            self._not_signed(what.value)
        self._told(found.outcome.value)
        return found

    def _full(self, tenant_id: str) -> Away | None:
        """Return why a question of a tenant is not even asked; ``None`` where it is."""
        if self._places[tenant_id] >= MOST_OF_TENANT:
            return Away.TENANT_FULL
        return Away.FULL if self._places.total() >= MOST_WAITING else None

    def _start(self) -> None:
        """Start what may be started now: of each tenant in its turn."""
        for tenant_id in tuple(self._waiting):
            if self._closed or self._running.total() - min(MOST_LATE, self._late.total()) >= THREADS:
                return
            if self._running[tenant_id] >= (1 if self._late[tenant_id] else AT_ONCE):
                continue
            look = self._waiting[tenant_id].popleft()
            self._waiting.move_to_end(tenant_id)
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id]
            self._running[tenant_id] += 1
            look.late = asyncio.get_running_loop().call_later(self._seconds, self._note_late, look)
            work: Future[Found] = Future()
            asyncio.wrap_future(work).add_done_callback(partial(self._done, look))
            # A daemon, and of no pool: the process would wait at its end for a look-up that never comes back.
            thread = threading.Thread(
                target=self._look, args=(look, work), name="gateway-memory", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the machine has no more threads; the place is given back
                work.set_exception(error)
            else:
                self._in_time[look] = thread

    def _look(self, look: _Look, work: Future[Found]) -> None:
        work.set_running_or_notify_cancel()
        try:
            found = self._find(look.tenant_id, look.domain, look.question, look.user)
        except BaseException as error:  # noqa: BLE001  # whoever asked is told, as by a pool's threads
            work.set_exception(error)
        else:
            work.set_result(found)

    def _note_late(self, look: _Look) -> None:
        look.late = None
        self._in_time.pop(look, None)
        self._late[look.tenant_id] += 1
        self._start()

    def _done(self, look: _Look, work: asyncio.Future[Found]) -> None:
        if look.late is None:
            self._late -= Counter([look.tenant_id])
        else:
            look.late.cancel()
            self._in_time.pop(look, None)
        self._running -= Counter([look.tenant_id])
        self._places -= Counter([look.tenant_id])
        if not look.answer.done() and not work.cancelled():
            error = work.exception()
            if error is None:
                look.answer.set_result(work.result())
            else:
                look.answer.set_exception(error)
                look.answer.exception()  # nobody may wait for it any more
        elif not work.cancelled():
            work.exception()
        self._start()

    def _drop(self, look: _Look) -> None:
        """Give up the place of a question that nobody waits for and that was not started."""
        waiting = self._waiting.get(look.tenant_id)
        if waiting is None or look not in waiting:
            return
        waiting.remove(look)
        if not waiting:
            del self._waiting[look.tenant_id]
        self._places -= Counter([look.tenant_id])

    def close(self) -> None:
        """Start nothing more, and wait for what is in time, but not for what is late."""
        self._closed = True
        self._waiting.clear()
        end = time.monotonic() + self._seconds
        for thread in self._in_time.values():
            thread.join(max(0.0, end - time.monotonic()))


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
    asked = memories.find(plan.caller.tenant_id, ask.domain, ask.prompt, user=plan.user, room=room)
    found = await unless_gone(request, asked)
    took = time.monotonic() - start
    if found is None:
        return replace(plan.without_memory(), looked_seconds=took)
    return replace(plan, found=found, looked_seconds=took)
