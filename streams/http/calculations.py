"""Answers that take long to calculate (budget plans, statements): a thread of their own, few at a time, remembered.

Ingest runs in the same process. So one thread calculates, with pauses as long as each calculation took; a caller has
few calculations in progress and a rate; the same question is calculated once for all who ask, and its answer is kept
for a short time, as long as neither a policy nor a ledger has changed.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy.storage.session import reading
from streams.errors import TooManyRequestsError
from streams.http.limits import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

KEPT_SECONDS = 10.0
MOST_KEPT = 256
LONGEST_REST_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class CalculationLimits:
    """How much is calculated.

    Attributes:
        per_caller: calculations of one caller, waiting and in progress.
        waiting: of all callers together.
        burst: of one caller at once.
        per_second: of one caller after that.
    """

    per_caller: int = 2
    waiting: int = 32
    burst: int = 10
    per_second: float = 0.5


class Calculations:
    """Calculates answers beside ingest.

    Args:
        engine: the database.
        limits: see there.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        engine: Engine,
        limits: CalculationLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limits = limits or CalculationLimits()
        self._monotonic = monotonic
        self._rest_until = 0.0
        self._closed = threading.Event()
        self._rate = RateLimit(
            burst=self._limits.burst, per_second=self._limits.per_second, monotonic=monotonic
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="discreet-calculation")
        self._kept: OrderedDict[Hashable, tuple[float, dict[str, Any]]] = OrderedDict()
        self._running: dict[Hashable, asyncio.Task[dict[str, Any]]] = {}
        self._of_caller: Counter[str] = Counter()

    async def answer(
        self, caller: str, question: Hashable, work: Callable[[Session], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what ``work`` returns, or what it returned a moment ago.

        Args:
            caller: who asks, for whom the limits hold.
            question: what is asked, and everything that the answer depends on but the time.
            work: calculates the answer in a transaction that only reads.

        Raises:
            TooManyRequestsError: the caller, or all together, ask for too much.
        """
        kept = self._kept.get(question)
        if kept is not None and self._monotonic() - kept[0] < KEPT_SECONDS:
            return kept[1]
        task = self._running.get(question)
        if task is None:
            self._admit(caller)
            task = asyncio.create_task(self._calculate(question, work))
            self._running[question] = task
            self._of_caller[caller] += 1
            task.add_done_callback(lambda done: self._done(caller, question, done))
        return await asyncio.shield(task)  # a caller who leaves does not take it from the others

    def _admit(self, caller: str) -> None:
        limits = self._limits
        if self._of_caller[caller] >= limits.per_caller or self._of_caller.total() >= limits.waiting:
            raise TooManyRequestsError("calculations are in progress; ask again when they are done")
        wait = self._rate.take(caller)
        if wait:
            raise TooManyRequestsError(
                "too many calculations were asked for; wait", retry_after=math.ceil(wait)
            )

    def _done(self, caller: str, question: Hashable, task: asyncio.Task[dict[str, Any]]) -> None:
        del self._running[question]
        self._of_caller[caller] -= 1
        if not task.cancelled():
            task.exception()  # whoever asked may have left; then nobody else looks at it

    async def _calculate(
        self, question: Hashable, work: Callable[[Session], dict[str, Any]]
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._thread, self._run, work)
        self._kept[question] = self._monotonic(), made
        self._kept.move_to_end(question)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return made

    def _run(self, work: Callable[[Session], dict[str, Any]]) -> dict[str, Any]:
        # As long as the one before took: at most half of the time is calculated.
        self._closed.wait(max(0.0, self._rest_until - self._monotonic()))
        began = self._monotonic()
        try:
            with reading(self._engine) as session:
                return work(session)
        finally:
            ended = self._monotonic()
            self._rest_until = ended + min(LONGEST_REST_SECONDS, ended - began)

    def close(self) -> None:
        """Give the thread up; what waits is not calculated."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)
