import asyncio

import pytest
from sqlalchemy.exc import DataError

from privacy.errors import StorageError
from streams.broker.progress import PartitionProgress
from streams.broker.records import RecordRun
from streams.errors import PoisonedTopicError
from streams.ingest.intake import Intake, Outcome, PoisonGuard
from streams.settings import IngestSettings
from tests.fakes.stream_records import FakeRecord

SETTINGS = IngestSettings(
    batch_events=4,
    buffer_events=6,
    consent_wait_seconds=0.6,
    retry_initial_seconds=0.01,
    retry_max_seconds=0.02,
    drain_seconds=60,
)


class Recorder:
    """A handler that keeps what it saw and can be told to fail."""

    def __init__(self):
        self.done = []
        self.refused = []
        self.failures = []
        self.attempts = 0
        self.away = False
        self.poison = set()
        self.hold = set()

    def process(self, works):
        self.attempts += 1
        if self.away:
            raise StorageError("away")
        if self.failures:
            raise self.failures.pop(0)
        if any(work.record.offset in self.poison for work in works):
            raise RuntimeError("a bug")
        held = [work for work in works if work.record.offset in self.hold and not work.final]
        self.done.extend(work.record.offset for work in works if work not in held)
        return Outcome(effects=len(works) - len(held), held=held)

    def refuse(self, work, error):
        self.refused.append((work.record.offset, type(error).__name__))


def run_of(progress, *offsets):
    progress.deliver(offsets[0], offsets[-1])
    return RecordRun(
        [FakeRecord(b"", offset=offset, timestamp=1000 + offset) for offset in offsets], progress
    )


def go(scenario, handler, settings=SETTINGS):
    async def main():
        intake = Intake("t", handler, settings)
        loop = asyncio.create_task(intake.run())
        try:
            async with asyncio.timeout(90):
                return await scenario(intake, loop)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    return asyncio.run(main())


def test_settled_offsets_follow_the_effects():
    handler, progress = Recorder(), PartitionProgress()

    async def scenario(intake, _):
        await intake.offer(run_of(progress, 0, 1, 2))
        await intake.drain()

    go(scenario, handler)
    assert handler.done == [0, 1, 2]
    assert progress.committable == 3


def test_an_outage_is_waited_for_and_nothing_is_settled_meanwhile():
    handler, progress = Recorder(), PartitionProgress()
    handler.failures = [StorageError("the database is away") for _ in range(5)]
    seen = []

    async def scenario(intake, _):
        await intake.offer(run_of(progress, 0, 1))
        while handler.failures:
            seen.append(progress.committable)
            await asyncio.sleep(0.005)
        await intake.drain()

    go(scenario, handler)
    assert set(seen) == {0}
    assert handler.done == [0, 1]
    assert progress.committable == 2


def test_one_bad_record_is_refused_alone_and_the_others_have_their_effect():
    handler, progress = Recorder(), PartitionProgress()
    handler.poison = {1}

    async def scenario(intake, _):
        await intake.offer(run_of(progress, 0, 1, 2))
        await intake.drain()

    go(scenario, handler)
    assert handler.done == [0, 2]
    assert handler.refused == [(1, "RuntimeError")]
    assert progress.committable == 3


def test_what_the_database_cannot_store_is_not_tried_for_ever():
    handler, progress = Recorder(), PartitionProgress()
    cause = StorageError("the database refused")
    cause.__cause__ = DataError("insert", {}, Exception("bad text"))
    handler.failures = [cause] * 6  # three for the batch, three for the record

    async def scenario(intake, _):
        await intake.offer(run_of(progress, 0))
        await intake.drain()

    go(scenario, handler)
    assert handler.refused == [(0, "StorageError")]
    assert progress.committable == 1


def test_a_full_buffer_makes_the_stream_wait():
    handler, progress = Recorder(), PartitionProgress()
    handler.away = True

    async def scenario(intake, _):
        await intake.offer(run_of(progress, *range(4)))
        while not handler.attempts:  # until it is taken, and being tried
            await asyncio.sleep(0.005)
        await intake.offer(run_of(progress, *range(4, 10)))
        waiting = asyncio.create_task(intake.offer(run_of(progress, 10)))
        await asyncio.sleep(0.05)
        stuck = not waiting.done()
        handler.away = False
        await waiting
        await intake.drain()
        return stuck

    assert go(scenario, handler)
    assert handler.done == list(range(11))


def test_a_held_record_is_offered_again_until_its_time_is_over():
    handler, progress = Recorder(), PartitionProgress()
    handler.hold = {0}

    async def scenario(intake, _):
        await intake.offer(run_of(progress, 0, 1))
        await intake.drain()
        while_held = (progress.committable, intake.held)
        while intake.held:
            await asyncio.sleep(0.02)
        return while_held

    assert go(scenario, handler) == (0, 1)
    assert handler.done == [1, 0]
    assert progress.committable == 2


def test_the_oldest_record_is_known_until_it_has_had_its_effect():
    handler, progress = Recorder(), PartitionProgress()
    handler.away, handler.hold = True, {3}

    async def scenario(intake, _):
        seen = [intake.oldest_timestamp]
        await intake.offer(run_of(progress, 2, 3, 4))
        while not handler.attempts:
            await asyncio.sleep(0.01)
        seen.append(intake.oldest_timestamp)  # in work
        await intake.offer(run_of(progress, 5))
        handler.away = False
        await intake.drain()
        seen.append(intake.oldest_timestamp)  # held
        while intake.held:
            await asyncio.sleep(0.02)
        seen.append(intake.oldest_timestamp)
        return seen

    assert go(scenario, handler) == [None, 1002, 1003, None]


def test_records_of_a_partition_that_was_given_up_are_dropped():
    handler, progress = Recorder(), PartitionProgress()
    handler.hold = {0}

    async def scenario(intake, _):
        await intake.offer(run_of(progress, 0))
        await intake.drain()
        progress.abandoned = True
        while intake.held:
            await asyncio.sleep(0.02)

    go(scenario, handler)
    assert handler.done == []


def test_a_poisoned_topic_ends_the_loop_loudly():
    class Refusing(Recorder):
        def process(self, works):
            return Outcome(dead_letters=len(works))

    settings = SETTINGS.model_copy(update={"poison_window_events": 10, "buffer_events": 100})
    progress = PartitionProgress()

    async def scenario(intake, loop):
        for start in range(0, 12, 4):
            await intake.offer(run_of(progress, *range(start, start + 4)))
        await asyncio.wait([loop])
        return loop.exception()

    assert isinstance(go(scenario, Refusing(), settings), PoisonedTopicError)


def test_the_guard_looks_at_recent_events_only():
    guard = PoisonGuard(window=100, share=0.5)
    for _ in range(9):
        guard.note(10, 10)  # too few events to judge
    for _ in range(20):
        guard.note(100, 10)
    with pytest.raises(PoisonedTopicError, match="of the last"):
        for _ in range(10):
            guard.note(100, 60)
