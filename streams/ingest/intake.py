"""From stream to transaction: a bounded buffer, one handler call at a time in a thread, settled in order.

An agent offers each run it receives; ``offer`` waits while the buffer is full, so a slow database stops the
pulling instead of growing memory. The loop takes what has gathered (natural batching: no timer), lets the
handler process it in one transaction in a thread, and then settles the offsets. A handler never sees a
partial failure:

- the database or the broker is away (a retryable error): tried again with growing pauses, reported once;
- anything else: the batch is halved until the failing record stands alone, which is then dead-lettered;
- the share of dead letters passes its limit: the loop ends with ``PoisonedTopicError`` and the worker stops.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import structlog
from sqlalchemy.exc import DataError, IntegrityError

from privacy.errors import PrivacyError
from streams.errors import PoisonedTopicError, StreamsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.broker.progress import PartitionProgress
    from streams.broker.records import RecordRun, SourceRecord
    from streams.ingest.identity import Identity
    from streams.ingest.parsed import Parsed
    from streams.settings import IngestSettings

log = structlog.get_logger(__name__)

HELD_POLL_SECONDS = 0.5
RECORD_ATTEMPTS = 3
Data = TypeVar("Data")
Result = TypeVar("Result")


@dataclass(slots=True)
class Work(Generic[Data]):
    """One record on its way through a handler.

    Attributes:
        record: the record.
        since: when it was first offered, on the monotonic clock, in seconds.
        final: it may not be held any longer.
        attempts: how often a handler was asked to process it.
        parsed: what the handler made of the record, kept while it is held.
        identity: whose event it is and which one, once the handler knows.
    """

    record: SourceRecord
    since: float
    final: bool = False
    attempts: int = 0
    parsed: Parsed[Data] | None = None
    identity: Identity | None = None

    @property
    def event(self) -> Parsed[Data]:
        """The decoded event, of a work that was read.

        Raises:
            ValueError: it was not read yet.
        """
        if self.parsed is None:
            raise ValueError("this record was not read yet; it has no event")
        return self.parsed

    @property
    def known(self) -> Identity:
        """The identity, of a work whose user is known.

        Raises:
            ValueError: it was not looked up yet.
        """
        if self.identity is None:
            raise ValueError("the user of this record was not looked up yet; it has no identity")
        return self.identity


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one handler call did: how many effects and dead letters, and which works must wait."""

    effects: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    held: Sequence[Work[Any]] = ()


class Handler(Protocol[Data]):
    """Turns records into effects, in one transaction per call; runs in a thread."""

    def process(self, works: Sequence[Work[Data]]) -> Outcome:
        """Give every work its effect or its dead letter, or hold it; calling it again does nothing twice.

        Raises:
            StorageError: the database is away; nothing happened.
            BrokerUnavailableError: dead letters could not be written.
        """

    def refuse(self, work: Work[Data], error: Exception) -> None:
        """Dead-letter a work that fails on its own.

        Raises:
            BrokerUnavailableError: the dead letter could not be written.
        """


class IntakeObserver(Protocol):
    """Who is told what happened (metrics)."""

    def batch_done(self, topic: str, works: Sequence[Work[Any]], outcome: Outcome, seconds: float) -> None:
        """Note one processed batch."""

    def retrying(self, topic: str) -> None:
        """Note one failed attempt."""


def _lies_in_the_record(error: Exception) -> bool:
    """Say whether the database refused what was to be stored, rather than being away or in use.

    Two workers that store the same event meet in an ``IntegrityError`` too; a few attempts tell the cases
    apart.
    """
    return isinstance(error.__cause__, DataError | IntegrityError)


@dataclass
class PoisonGuard:
    """Watches the share of dead letters among the last ``window`` events."""

    window: int
    share: float
    _recent: deque[tuple[int, int]] = field(default_factory=deque)
    _events: int = 0
    _dead: int = 0

    def note(self, events: int, dead: int) -> None:
        """Add a batch.

        Raises:
            PoisonedTopicError: the window is full and the share is reached.
        """
        self._recent.append((events, dead))
        self._events += events
        self._dead += dead
        while self._recent and self._events - self._recent[0][0] >= self.window:
            gone_events, gone_dead = self._recent.popleft()
            self._events -= gone_events
            self._dead -= gone_dead
        if self._events >= self.window and self._dead >= self.share * self._events:
            raise PoisonedTopicError(
                f"{self._dead} of the last {self._events} events could not be accepted, and the limit is "
                f"{self.share:.0%}; look at the reasons with `discreet dlq list` before the next start"
            )


class Intake:
    """The bounded buffer and the processing loop of one topic."""

    def __init__(
        self,
        topic: str,
        handler: Handler[Any],
        settings: IngestSettings,
        observer: IntakeObserver | None = None,
    ) -> None:
        self.topic = topic
        self._handler = handler
        self._settings = settings
        self._observer = observer
        self._runs: deque[RecordRun] = deque()
        self._buffered = 0
        self._busy = False
        self._changed = asyncio.Condition()
        self._held: dict[tuple[int, int], tuple[Work[Any], PartitionProgress]] = {}
        self._held_looked_at = 0.0
        self._oldest_in_work: int | None = None
        self._guard = PoisonGuard(settings.poison_window_events, settings.poison_share)

    @property
    def buffered(self) -> int:
        """Number of records waiting for a transaction."""
        return self._buffered

    @property
    def held(self) -> int:
        """Number of records waiting for something outside, such as a consent."""
        return len(self._held)

    @property
    def oldest_timestamp(self) -> int | None:
        """Time of the oldest record that has not had its effect yet, in milliseconds since 1970; of those in memory."""
        waiting = [run.records[0].timestamp for run in self._runs]
        waiting.extend(work.record.timestamp for work, _ in self._held.values())
        if self._oldest_in_work is not None:
            waiting.append(self._oldest_in_work)
        return min(waiting, default=None)

    async def offer(self, run: RecordRun) -> None:
        """Add a run; waits while the buffer is full."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._buffered < self._settings.buffer_events)
            self._runs.append(run)
            self._buffered += len(run.records)
            self._changed.notify_all()

    async def drain(self) -> None:
        """Wait until everything offered so far has had its effect, but no longer than the set time."""
        try:
            async with asyncio.timeout(self._settings.drain_seconds), self._changed:
                await self._changed.wait_for(lambda: not self._runs and not self._busy)
        except TimeoutError:
            log.warning("drain_timeout", topic=self.topic, buffered=self._buffered)

    async def run(self) -> None:
        """Process until cancelled.

        Raises:
            PoisonedTopicError: too large a share of events could not be accepted.
        """
        while True:
            runs = await self._next_runs()
            try:
                await self._process(runs)
            finally:
                async with self._changed:
                    self._busy = False
                    self._oldest_in_work = None
                    self._changed.notify_all()

    async def _next_runs(self) -> list[RecordRun]:
        """Take whole runs up to a batch; empty when it is only time to look at held records again."""
        async with self._changed:
            if self._held and not self._runs:
                try:
                    async with asyncio.timeout(HELD_POLL_SECONDS):
                        await self._changed.wait_for(lambda: bool(self._runs))
                except TimeoutError:
                    pass
            else:
                await self._changed.wait_for(lambda: bool(self._runs))
            taken: list[RecordRun] = []
            events = 0
            while self._runs and (
                not taken or events + len(self._runs[0].records) <= self._settings.batch_events
            ):
                run = self._runs.popleft()
                events += len(run.records)
                taken.append(run)
            self._buffered -= events
            self._busy = True
            self._oldest_in_work = min((run.records[0].timestamp for run in taken), default=None)
            self._changed.notify_all()
            return taken

    async def _process(self, runs: list[RecordRun]) -> None:
        now = time.monotonic()
        # Partitions that were given up meanwhile are somebody else's now: their records are not ours to touch.
        runs = [run for run in runs if not run.progress.abandoned]
        works = self._due_held(now)
        retried = len(works)
        final = (
            self._settings.consent_wait_seconds == 0 or len(self._held) >= self._settings.consent_wait_events
        )
        works.extend(Work(record, now, final) for run in runs for record in run.records)
        if not works:
            return
        started = time.perf_counter()
        outcome = await self._until_done(works)
        self._settle(runs, works[:retried], outcome)
        if self._observer is not None:
            self._observer.batch_done(self.topic, works, outcome, time.perf_counter() - started)
        self._guard.note(len(works) - len(outcome.held), outcome.dead_letters)

    def _due_held(self, now: float) -> list[Work[Any]]:
        if not self._held or now - self._held_looked_at < HELD_POLL_SECONDS:
            return []
        self._held_looked_at = now
        self._held = {place: entry for place, entry in self._held.items() if not entry[1].abandoned}
        works = [work for work, _ in self._held.values()]
        for work in works:
            work.final = now - work.since >= self._settings.consent_wait_seconds
        return works

    def _settle(self, runs: list[RecordRun], retried: list[Work[Any]], outcome: Outcome) -> None:
        still_held = {(work.record.partition, work.record.offset): work for work in outcome.held}
        for run in runs:
            for record in run.records if still_held else ():
                place = (record.partition, record.offset)
                if place in still_held:
                    run.progress.hold(record.offset)
                    self._held[place] = (still_held[place], run.progress)
            run.progress.settle_through(run.records[-1].offset)
        for work in retried:
            place = (work.record.partition, work.record.offset)
            if place not in still_held:
                _, progress = self._held.pop(place)
                progress.release(work.record.offset)

    async def _until_done(self, works: list[Work[Any]]) -> Outcome:
        """Process ``works``, and when that fails for good, each half for itself, down to the record it is about."""
        try:
            return await self._with_retries(lambda: self._handler.process(works))
        except Exception as error:  # noqa: BLE001  # whatever one record provokes must not stop the others
            failure = error
        if len(works) == 1:
            # The record is kept as a dead letter, with the error's type.
            await self._with_retries(lambda: self._handler.refuse(works[0], failure))
            return Outcome(dead_letters=1)
        log.warning("batch_failed", topic=self.topic, events=len(works), error=type(failure).__name__)
        middle = len(works) // 2
        first = await self._until_done(works[:middle])
        second = await self._until_done(works[middle:])
        return Outcome(
            effects=first.effects + second.effects,
            duplicates=first.duplicates + second.duplicates,
            dead_letters=first.dead_letters + second.dead_letters,
            held=[*first.held, *second.held],
        )

    async def _with_retries(self, call: Callable[[], Result]) -> Result:
        pause = self._settings.retry_initial_seconds
        attempts = 0
        while True:
            try:
                result = await asyncio.to_thread(call)
            except (PrivacyError, StreamsError) as error:
                attempts += 1
                if not error.retryable or (attempts == RECORD_ATTEMPTS and _lies_in_the_record(error)):
                    raise
                if attempts == 1:
                    log.warning("waiting_for_dependency", topic=self.topic, code=error.code, error=str(error))
                if self._observer is not None:
                    self._observer.retrying(self.topic)
            else:
                if attempts:
                    log.info("dependency_is_back", topic=self.topic, attempts=attempts)
                return result
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            pause = min(pause * 2, self._settings.retry_max_seconds)
