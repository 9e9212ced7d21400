"""From stream to transaction: a bounded buffer, one handler call at a time in a thread, settled in order.

An agent offers each run it receives; ``offer`` waits while the buffer is full, so a slow database stops the
pulling instead of growing memory. The loop takes what has gathered (natural batching: no timer), lets the
handler process it in one transaction in a thread, and then settles the offsets. A handler never sees a
partial failure:

- the database or the broker is away (a retryable error): tried again with growing pauses, reported once;
- anything else: the batch is halved until the failing record stands alone, which is then dead-lettered;
- nearly all events of several tenants fail so: the loop ends with ``PoisonedTopicError`` and the worker stops;
- the database was set back under its hands: the loop ends with ``RewoundError``, and so does the worker.

Nobody's events decide what becomes of another's. An early event takes one of its own user's seats
(``streams.ingest.seats``); a tenant whose events are nearly all refused is served behind the others
(``streams.ingest.poison``); what is full makes everybody wait, and nobody lose.

Longer than 400 lines, because what waits, what is tried again and what is settled is one loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog
from sqlalchemy.exc import DataError, IntegrityError

from privacy.errors import PrivacyError, RewoundError
from streams.errors import StreamsError
from streams.ingest.offsets import BatchOffsets
from streams.ingest.poison import FaultGuard, SlowedTenants, tenant_of
from streams.ingest.seats import Room, Waiting, bytes_of, size_of
from streams.ingest.work import Outcome, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streams.broker.progress import PartitionProgress
    from streams.broker.records import RecordRun, SourceRecord
    from streams.settings import IngestSettings

log = structlog.get_logger(__name__)

HELD_POLL_SECONDS = 0.5
HELD_AT_ONCE = (
    200  # of those that wait for a consent, looked at again in one batch: others' events are in it too
)
SHORTEST_PAUSE_SECONDS = 0.25  # between two such looks, while there are new events
IDLE_PAUSE_SECONDS = 0.1
LOOKS_TO_EMPTY_THE_LANE = 20
RECORD_ATTEMPTS = 3
_KEY_OF = attrgetter("record.key")
Data = TypeVar("Data")
Result = TypeVar("Result")


class Handler(Protocol[Data]):
    """Turns records into effects, in one transaction per call; runs in a thread."""

    def process(self, works: Sequence[Work[Data]], offsets: BatchOffsets | None = None) -> Outcome:
        """Give every work its effect or its dead letter, or hold it; calling it again does nothing twice.

        With ``offsets`` what the batch settles is stored in the transaction of the effects.

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

    def slowed(self, topic: str) -> None:
        """Note that one more tenant is served behind the others."""


def _lies_in_the_record(error: Exception) -> bool:
    """Say whether the database refused what was to be stored, rather than being away or in use.

    Two workers that store the same event meet in an ``IntegrityError`` too; a few attempts tell the cases
    apart.
    """
    return isinstance(error.__cause__, DataError | IntegrityError)


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
        self._runs: deque[tuple[RecordRun, int]] = deque()  # with its bytes
        self._buffered = 0
        self._buffered_bytes = 0
        self._busy = False
        self._changed = asyncio.Condition()
        self._held: dict[
            tuple[int, int], tuple[Work[Any], PartitionProgress]
        ] = {}  # last looked at comes last
        self._waiting = Waiting()  # of what is held
        self._lane_bytes = 0
        self._held_looked_at = 0.0
        self._oldest_in_work: int | None = None
        self._slowed = SlowedTenants(settings.poison_window_events, settings.poison_share)
        self._lane: deque[tuple[SourceRecord, PartitionProgress]] = deque()  # records of slowed tenants
        self._lane_looked_at = 0.0
        self._guard = FaultGuard(
            settings.poison_window_events, settings.poison_share, settings.poison_tenants
        )

    @property
    def buffered(self) -> int:
        """Number of records waiting for a transaction."""
        return self._buffered

    @property
    def held(self) -> int:
        """Number of records waiting for something outside, such as a consent."""
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether no more of the topic should be fetched for now; what was fetched is still taken."""
        waiting = len(self._held) + len(self._lane)
        return (
            not self._has_room()
            or waiting >= self._settings.consent_wait_events > 0
            or self._waiting.bytes + self._lane_bytes >= self._settings.consent_wait_bytes
        )

    def _has_room(self) -> bool:
        return (
            self._buffered < self._settings.buffer_events
            and self._buffered_bytes < self._settings.buffer_bytes
        )

    @property
    def oldest_timestamp(self) -> int | None:
        """Time of the oldest record that has not had its effect yet, in milliseconds since 1970; of those in memory."""
        waiting = [run.records[0].timestamp for run, _ in self._runs]
        waiting.extend(work.record.timestamp for work, _ in self._held.values())
        waiting.extend(record.timestamp for record, _ in self._lane)
        if self._oldest_in_work is not None:
            waiting.append(self._oldest_in_work)
        return min(waiting, default=None)

    async def offer(self, run: RecordRun) -> None:
        """Add a run; waits while the buffer is full."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            taken = bytes_of(run.records)
            self._runs.append((run, taken))
            self._buffered += len(run.records)
            self._buffered_bytes += taken
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
            RewoundError: the database was set back to a backup.
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
            if (self._held or self._lane) and not self._runs:
                try:
                    async with asyncio.timeout(self._pause(busy=False) if self._held else HELD_POLL_SECONDS):
                        await self._changed.wait_for(lambda: bool(self._runs))
                except TimeoutError:
                    pass
            else:
                await self._changed.wait_for(lambda: bool(self._runs))
            taken: list[RecordRun] = []
            events = 0
            while self._runs and (
                not taken or events + len(self._runs[0][0].records) <= self._settings.batch_events
            ):
                run, size = self._runs.popleft()
                events += len(run.records)
                self._buffered_bytes -= size
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
        held = self._due_held(now, busy=bool(runs))
        apart = self._due_of_lane(now)
        room = Room(
            self._settings.consent_wait_events_per_user,
            self._settings.consent_wait_bytes_per_user,
            self._waiting,
        )
        final = not self._settings.consent_wait_seconds or not self._settings.consent_wait_events
        progress_of = {run.records[-1].partition: run.progress for run in runs}
        lane: list[tuple[Work[Any], PartitionProgress]] = [
            (Work(record, now, final, room), progress) for record, progress in apart
        ]
        fresh: list[Work[Any]] = [
            Work(record, now, final, room) for run in runs for record in self._in_turn(run)
        ]
        if not held and not lane and not fresh:
            self._settle_through(runs)
            return
        works = [*(work for work, _ in (*held, *lane)), *fresh] if held or lane else fresh
        started = time.perf_counter()
        outcome = await self._until_done(works, self._offsets(runs, (*held, *lane)))
        self._settle(held, lane, outcome)
        if outcome.held:
            self._hold_early(fresh, progress_of, outcome)
        self._settle_through(runs)
        if self._observer is not None:
            self._observer.batch_done(self.topic, works, outcome, time.perf_counter() - started)
        self._judge(works, outcome)

    def _offsets(
        self, runs: list[RecordRun], waited: Sequence[tuple[Work[Any], PartitionProgress]]
    ) -> BatchOffsets:
        """Return what the batch settles; what slowed tenants sent is held in the lane already."""
        offsets = BatchOffsets(self.topic)
        for work, progress in waited:
            offsets.progress[work.record.partition] = progress
            offsets.waited.add(_place(work))
        for run in runs:
            last = run.records[-1]
            offsets.progress[last.partition] = run.progress
            offsets.last[last.partition] = last.offset
        return offsets

    def _in_turn(self, run: RecordRun) -> Sequence[SourceRecord]:
        """Return the records of a run whose turn it is; those of slowed tenants go to the lane."""
        if not self._slowed:
            return run.records
        turn: list[SourceRecord] = []
        for record in run.records:
            if tenant_of(record.key) in self._slowed:
                run.progress.hold(record.offset)
                self._lane.append((record, run.progress))
                self._lane_bytes += size_of(record)
            else:
                turn.append(record)
        return turn

    def _due_of_lane(self, now: float) -> list[tuple[SourceRecord, PartitionProgress]]:
        """Take from the lane what is due: so many at each look, and whatever the lane has no room for."""
        if not self._lane:
            return []
        due = len(self._lane) - self._settings.poison_lane_events
        if now - self._lane_looked_at >= HELD_POLL_SECONDS:
            self._lane_looked_at = now
            due = max(due, self._settings.poison_lane_events // LOOKS_TO_EMPTY_THE_LANE + 1)
        taken = [self._lane.popleft() for _ in range(min(max(0, due), len(self._lane)))]
        self._lane_bytes -= sum(size_of(record) for record, _ in taken)
        return [entry for entry in taken if not entry[1].abandoned]

    def _due_held(self, now: float, *, busy: bool) -> list[tuple[Work[Any], PartitionProgress]]:
        """Return what is looked at again: a part of it, in turn, so that however much waits nobody waits for it."""
        if not self._held or now - self._held_looked_at < self._pause(busy=busy):
            return []
        self._held_looked_at = now
        due: list[tuple[Work[Any], PartitionProgress]] = []
        for place in list(islice(self._held, HELD_AT_ONCE)):
            work, progress = self._held.pop(place)
            if progress.abandoned:
                self._waiting.remove(work.record)
                continue
            self._held[place] = work, progress
            work.final = now - work.since >= self._settings.consent_wait_seconds
            due.append((work, progress))
        return due

    def _pause(self, *, busy: bool) -> float:
        """Return the seconds between two looks: few enough for each to have its turn in time, where that can be."""
        shortest = SHORTEST_PAUSE_SECONDS if busy else IDLE_PAUSE_SECONDS
        return max(shortest, HELD_POLL_SECONDS * min(1.0, HELD_AT_ONCE / len(self._held)))

    def _settle(
        self,
        held: list[tuple[Work[Any], PartitionProgress]],
        lane: list[tuple[Work[Any], PartitionProgress]],
        outcome: Outcome,
    ) -> None:
        """Release what was held before and need not wait any longer."""
        waits = {_place(work) for work in outcome.held}
        for work, progress in held:
            if _place(work) not in waits:
                del self._held[_place(work)]
                self._waiting.remove(work.record)
                progress.release(work.record.offset)
        for work, progress in lane:  # held already, while they were in the lane
            if _place(work) in waits:
                self._hold(work, progress)
            else:
                progress.release(work.record.offset)

    def _hold_early(
        self, fresh: list[Work[Any]], progress_of: Mapping[int, PartitionProgress], outcome: Outcome
    ) -> None:
        """Hold those of the new works that must wait."""
        waits = {_place(work) for work in outcome.held}
        for work in fresh:
            if _place(work) in waits:
                progress = progress_of[work.record.partition]
                progress.hold(work.record.offset)
                self._hold(work, progress)

    def _hold(self, work: Work[Any], progress: PartitionProgress) -> None:
        place = _place(work)
        if (
            before := self._held.pop(place, None)
        ) is not None:  # of a partition that was given up and came back
            self._waiting.remove(before[0].record)
        self._held[place] = work, progress
        self._waiting.add(work.record)

    def _settle_through(self, runs: list[RecordRun]) -> None:
        for run in runs:
            run.progress.settle_through(run.records[-1].offset)

    def _judge(self, works: list[Work[Any]], outcome: Outcome) -> None:
        """Slow whose events are nearly all refused; stop when it is this worker that fails.

        Raises:
            PoisonedTopicError: it is.
        """
        events: Counter[str | None] = Counter()
        for key, count in Counter(map(_KEY_OF, works)).items():  # of far fewer users than events
            events[tenant_of(key)] += count
        events.subtract(tenant_of(work.record.key) for work in outcome.held)
        letters = Counter(tenant_of(record.key) for record in outcome.refused)
        for tenant in self._slowed.note(events, letters):
            log.warning("tenant_slowed", topic=self.topic, tenant=tenant, share=self._settings.poison_share)
            if self._observer is not None:
                self._observer.slowed(self.topic)
        self._guard.note(events.total(), (tenant_of(record.key) for record in outcome.failed))

    async def _until_done(self, works: list[Work[Any]], offsets: BatchOffsets | None = None) -> Outcome:
        """Process ``works``, and when that fails for good, each half for itself, down to the record it is about.

        Halves store no offsets: the next batch does.
        """
        try:
            return await self._with_retries(lambda: self._handler.process(works, offsets))
        except RewoundError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever one record provokes must not stop the others
            failure = error
        if len(works) == 1:
            # The record is kept as a dead letter, with the error's type.
            await self._with_retries(lambda: self._handler.refuse(works[0], failure))
            return Outcome(refused=[works[0].record], failed=[works[0].record])
        log.warning("batch_failed", topic=self.topic, events=len(works), error=type(failure).__name__)
        middle = len(works) // 2
        first = await self._until_done(works[:middle])
        second = await self._until_done(works[middle:])
        return Outcome(
            effects=first.effects + second.effects,
            duplicates=first.duplicates + second.duplicates,
            held=[*first.held, *second.held],
            refused=[*first.refused, *second.refused],
            failed=[*first.failed, *second.failed],
        )

    async def _with_retries(self, call: Callable[[], Result]) -> Result:
        pause = self._settings.retry_initial_seconds
        attempts = 0
        while True:
            try:
                result = await asyncio.to_thread(call)
            except RewoundError:
                raise
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


def _place(work: Work[Any]) -> tuple[int, int]:
    return work.record.partition, work.record.offset
