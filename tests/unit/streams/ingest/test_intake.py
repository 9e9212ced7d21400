import asyncio

import pytest
from sqlalchemy.exc import DataError

from privacy.errors import RewoundError, StorageError
from streams.broker.progress import PartitionProgress
from streams.broker.records import RecordRun
from streams.errors import PoisonedTopicError
from streams.ingest.intake import HELD_AT_ONCE, Intake
from streams.ingest.poison import MOST_TENANTS, FaultGuard, SlowedTenants, tenant_of
from streams.ingest.work import Outcome
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

    def process(self, works, offsets=None):
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


def test_a_database_that_was_set_back_ends_the_loop_and_settles_nothing():
    handler, progress = Recorder(), PartitionProgress()
    handler.failures = [RewoundError("set back")]

    async def scenario(intake, loop):
        await intake.offer(run_of(progress, 0, 1))
        await loop

    with pytest.raises(RewoundError):
        go(scenario, handler)
    assert (handler.done, handler.refused, handler.attempts) == ([], [], 1)
    assert progress.committable == 0


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


def test_however_much_waits_few_of_it_are_in_any_batch_and_each_has_its_turn():
    handler, progress, early = Recorder(), PartitionProgress(), 950
    handler.hold, sizes = set(range(early)), []
    original = handler.process

    def process(works, offsets=None):
        sizes.append(len(works))
        return original(works, offsets)

    handler.process = process

    async def scenario(intake, _):
        await intake.offer(run_of(progress, *range(early)))
        await intake.drain()
        held = (intake.held, intake._waiting.bytes > 0)
        while intake.held:
            await asyncio.sleep(0.02)
        return held, intake._waiting.bytes

    settings = SETTINGS.model_copy(update={"consent_wait_events_per_user": early, "buffer_events": early})
    assert go(scenario, handler, settings) == ((early, False), 0)
    assert sizes[0] == early
    assert max(sizes[1:]) <= HELD_AT_ONCE
    assert sorted(handler.done) == list(range(early))
    assert progress.committable == early


def test_what_waits_is_counted_by_user_and_a_record_that_came_back_once():
    handler, lost, back = Recorder(), PartitionProgress(), PartitionProgress()
    handler.hold = {0, 1}
    waiting = []

    async def scenario(intake, _):
        await intake.offer(run_of(lost, 0, 1))
        await intake.drain()
        waiting.append(intake._waiting.of(None))
        lost.abandoned = True
        await intake.offer(run_of(back, 0, 1))
        await intake.drain()
        waiting.append(intake._waiting.of(None))
        while intake.held:
            await asyncio.sleep(0.02)
        waiting.append(intake._waiting.of(None))

    go(scenario, handler)
    assert waiting == [(2, 0), (2, 0), (0, 0)]


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


def keyed_run(progress, first, keys):
    """A run of one record for each key, from the offset ``first`` on."""
    progress.deliver(first, first + len(keys) - 1)
    records = [FakeRecord(b"", key, offset=first + place) for place, key in enumerate(keys)]
    return RecordRun(records, progress)


GUARDED = SETTINGS.model_copy(
    update={"poison_window_events": 10, "buffer_events": 10_000, "batch_events": 5, "poison_lane_events": 40}
)


class Refusing(Recorder):
    """Refuses what comes of ``hog``; all others have their effect."""

    def process(self, works, offsets=None):
        refused = [work.record for work in works if work.record.key.startswith(b"hog/")]
        self.done.extend(work.record for work in works)
        return Outcome(effects=len(works) - len(refused), refused=refused)


def test_a_tenant_whose_events_are_all_refused_is_served_behind_the_others_and_stops_nobody():
    handler, progress = Refusing(), PartitionProgress()
    before = [b"hog/a", b"acme/b"] * 10

    async def scenario(intake, loop):
        await intake.offer(keyed_run(progress, 0, before))
        await intake.drain()
        mixed = [b"hog/a", b"hog/c", b"acme/b"] * 20
        await intake.offer(keyed_run(progress, 20, mixed))
        await intake.drain()
        alone = [record.key for record in handler.done[20:]]
        held_back = progress.committable
        while progress.committable < 80:
            await asyncio.sleep(0.02)
        return alone, held_back, loop.done()

    alone, held_back, stopped = go(scenario, handler, GUARDED)
    assert alone.count(b"acme/b") == 20
    assert len(alone) < 60  # the lane holds what is over
    assert held_back < 80
    assert not stopped
    assert sorted(record.offset for record in handler.done) == list(range(80))


def test_what_the_lane_has_no_room_for_is_processed_at_once():
    handler, progress = Refusing(), PartitionProgress()

    async def scenario(intake, _):
        await intake.offer(keyed_run(progress, 0, [b"hog/a"] * 10))
        await intake.drain()
        await intake.offer(keyed_run(progress, 10, [b"hog/a"] * 500))
        await intake.offer(keyed_run(progress, 510, [b"acme/b"]))
        await intake.drain()
        return len(handler.done)

    assert go(scenario, handler, GUARDED) >= 511 - 40 - 3


def test_nearly_all_events_of_several_tenants_failing_end_the_loop_loudly():
    handler, progress = Recorder(), PartitionProgress()
    handler.poison = set(range(100))

    async def scenario(intake, loop):
        for start in range(0, 20, 4):
            keys = [f"tenant-{number}/u".encode() for number in range(4)]
            await intake.offer(keyed_run(progress, start, keys))
        await asyncio.wait([loop])
        return loop.exception()

    assert isinstance(go(scenario, handler, GUARDED), PoisonedTopicError)


@pytest.mark.parametrize("tenants", [1, 2])
def test_events_of_one_or_two_tenants_that_all_fail_stop_nobody(tenants):
    handler, progress = Recorder(), PartitionProgress()
    handler.poison = set(range(100))

    async def scenario(intake, loop):
        keys = [f"tenant-{number % tenants}/u{number}".encode() for number in range(100)]
        await intake.offer(keyed_run(progress, 0, keys))
        while progress.committable < 100:
            await asyncio.sleep(0.02)
        return loop.done()

    assert go(scenario, handler, GUARDED) is False
    assert len(handler.refused) == 100


def test_the_guard_looks_at_recent_events_only():
    guard = FaultGuard(window=100, share=0.5, tenants=2)
    for _ in range(9):
        guard.note(10, ["a", "b"] * 5)  # too few events to judge
    for _ in range(20):
        guard.note(100, ["a", "b"] * 5)
    with pytest.raises(PoisonedTopicError, match="of the last"):
        for _ in range(10):
            guard.note(100, ["a", "b"] * 30)


def test_a_tenant_is_judged_by_its_own_events_and_again_after_each_window():
    tenants = SlowedTenants(window=10, share=0.9)
    assert tenants.note({"hog": 8, "acme": 1000}, {"hog": 8}) == []
    assert tenants.note({"hog": 2}, {"hog": 2}) == ["hog"]
    assert ("hog" in tenants, "acme" in tenants, len(tenants)) == (True, False, 1)
    assert tenants.note({"hog": 10}, {"hog": 10}) == []  # still, and reported once
    tenants.note({"hog": 10}, {"hog": 1})
    assert "hog" not in tenants


def test_names_that_somebody_makes_up_do_not_fill_the_memory():
    tenants = SlowedTenants(window=1_000_000, share=0.9)
    tenants.note({"acme": 999_999}, {"acme": 999_999})
    for start in range(0, 30_000, 1000):
        tenants.note({f"made-up-{number}": 1 for number in range(start, start + 1000)}, {})
        assert len(tenants._windows) <= MOST_TENANTS
    assert tenants.note({"acme": 1}, {"acme": 1}) == ["acme"]


@pytest.mark.parametrize(
    ("key", "tenant"),
    [
        (b"acme/ada", "acme"),
        (b"acme", None),
        (None, None),
        (b"\xff/a", None),
        (b"A/b", None),
        (b"a" * 64 + b"/x", None),
    ],
)
def test_a_key_names_its_tenant_or_none(key, tenant):
    assert tenant_of(key) == tenant


class Early(Recorder):
    """Holds whatever may wait; nobody's consent comes."""

    def process(self, works, offsets=None):
        held = [work for work in works if work.may_wait()]
        self.refused.extend(work.record for work in works if work not in held)
        return Outcome(held=held, refused=[work.record for work in works if work not in held])


def test_each_user_has_the_same_seats_whoever_else_waits():
    settings = SETTINGS.model_copy(
        update={
            "buffer_events": 1000,
            "batch_events": 7,
            "consent_wait_events_per_user": 3,
            "consent_wait_seconds": 60.0,
        }
    )

    def refused(keys):
        handler, progress = Early(), PartitionProgress()

        async def scenario(intake, _):
            await intake.offer(keyed_run(progress, 0, keys))
            await intake.drain()
            return intake.held

        held = go(scenario, handler, settings)
        return [record.key for record in handler.refused], held

    bob = [b"acme/bob"] * 5
    both = [key for pair in zip([b"acme/alice"] * 5, bob, strict=True) for key in pair] + [b"acme/alice"] * 50
    assert refused(bob) == ([b"acme/bob"] * 2, 3)
    with_alice, held = refused(both)
    assert [key for key in with_alice if key == b"acme/bob"] == [b"acme/bob"] * 2
    assert held == 6


def test_a_full_room_refuses_nobody_and_asks_for_no_more():
    settings = SETTINGS.model_copy(
        update={"consent_wait_events": 5, "buffer_events": 1000, "consent_wait_seconds": 60.0}
    )
    handler, progress = Early(), PartitionProgress()

    async def scenario(intake, _):
        seen = [intake.full]
        for start in (0, 6):
            await intake.offer(keyed_run(progress, start, [f"acme/u{start + n}".encode() for n in range(6)]))
            await intake.drain()
            seen.append(intake.full)
        return seen

    assert go(scenario, handler, settings) == [False, True, True]
    assert handler.refused == []


def test_a_seat_is_free_again_when_its_event_has_settled():
    settings = SETTINGS.model_copy(update={"consent_wait_events_per_user": 1, "consent_wait_seconds": 0.05})
    handler, progress = Early(), PartitionProgress()

    async def scenario(intake, _):
        held = []
        for offset in (0, 1):
            await intake.offer(keyed_run(progress, offset, [b"acme/bob"]))
            await intake.drain()
            held.append(intake.held)
            while intake.held:
                await asyncio.sleep(0.02)
        return held

    assert go(scenario, handler, settings) == [1, 1]


def sized_run(progress, first, records):
    """A run of (key, bytes of key and value together)."""
    progress.deliver(first, first + len(records) - 1)
    return RecordRun(
        [
            FakeRecord(b"x" * (size - len(key)), key, offset=first + number)
            for number, (key, size) in enumerate(records)
        ],
        progress,
    )


def test_each_user_has_the_same_bytes_to_wait_with_whoever_else_waits():
    settings = SETTINGS.model_copy(
        update={"buffer_events": 1000, "consent_wait_bytes_per_user": 250, "consent_wait_seconds": 60.0}
    )
    handler, progress = Early(), PartitionProgress()
    bob = [(b"acme/bob", 100), (b"acme/bob", 100), (b"acme/bob", 100), (b"acme/bob", 50), (b"acme/bob", 9)]

    async def scenario(intake, _):
        for first, records in ((0, [(b"acme/alice", 251)]), (1, bob), (6, [(b"acme/alice", 250)])):
            await intake.offer(sized_run(progress, first, records))
            await intake.drain()
        return intake.held

    assert go(scenario, handler, settings) == 4
    assert [(record.key, record.offset) for record in handler.refused] == [
        (b"acme/alice", 0),
        (b"acme/bob", 3),
        (b"acme/bob", 5),
    ]


def test_a_room_that_is_full_by_bytes_refuses_nobody_and_asks_for_no_more():
    settings = SETTINGS.model_copy(
        update={"buffer_events": 1000, "consent_wait_bytes": 500, "consent_wait_seconds": 0.3}
    )
    handler, progress = Early(), PartitionProgress()

    async def scenario(intake, _):
        seen = []
        for first in (0, 2, 4):
            await intake.offer(
                sized_run(progress, first, [(b"acme/u%d" % (first + n), 100) for n in range(2)])
            )
            await intake.drain()
            seen.append(intake.full)
        refused = list(handler.refused)
        while intake.held:
            await asyncio.sleep(0.02)
        await intake.drain()
        return seen, refused, intake.full

    assert go(scenario, handler, settings) == ([False, False, True], [], False)


def test_a_buffer_that_is_full_by_bytes_makes_the_stream_wait():
    settings = SETTINGS.model_copy(update={"buffer_events": 1000, "buffer_bytes": 300})
    handler, progress = Recorder(), PartitionProgress()
    handler.away = True

    async def scenario(intake, _):
        await intake.offer(sized_run(progress, 0, [(b"acme/a", 50)]))
        while not handler.attempts:  # that run is being worked on
            await asyncio.sleep(0.005)
        await intake.offer(sized_run(progress, 1, [(b"acme/a", 300)]))
        waiting = asyncio.create_task(intake.offer(sized_run(progress, 2, [(b"acme/a", 10)])))
        await asyncio.sleep(0.05)
        blocked, full = not waiting.done(), intake.full
        handler.away = False
        await waiting
        await intake.drain()
        return blocked, full, intake.full

    assert go(scenario, handler, settings) == (True, True, False)
    assert handler.done == [0, 1, 2]
