"""Stock Faust 0.15.3 commits past records that have had no effect; our consumer does not.

Each scenario runs on both classes. The stock half documents the fault (and tells us when it is repaired upstream); the
half that counts is ours.
"""

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread as StockThread
from faust.transport.drivers.aiokafka import Consumer as StockConsumer
from faust.types import TP
from intervaltree import IntervalTree

from streams.broker.app import make_app
from streams.broker.progress import PartitionProgress
from streams.ingest.intake import Intake
from streams.settings import BrokerSettings, IngestSettings

TOPIC = TP("discreet.interactions.v1", 0)


def stock_offset(*, committed, acked, gaps=()):
    state = SimpleNamespace(
        _acked={TOPIC: list(acked)},
        _acked_index=defaultdict(set),
        _gap=defaultdict(IntervalTree),
        _committed_offset=defaultdict(lambda: None, {TOPIC: committed}),
    )
    for start, end in gaps:
        asyncio.run(StockConsumer._add_gap(state, TOPIC, start, end))
    return StockConsumer._new_offset(state, TOPIC)


@contextmanager
def our_app():
    intakes = {TOPIC.topic: Intake(TOPIC.topic, None, IngestSettings())}
    app = make_app(BrokerSettings(), intakes, max_poll_records=10)
    yield app
    app.consumer._thread.thread_loop.close()  # made for a thread that is never started here


def our_offset(progress):
    async def ask():
        with our_app() as app:
            app.run_consumer.progress[TOPIC] = progress
            return app.run_consumer._filter_committable_offsets([TOPIC])

    return asyncio.run(ask())[TOPIC]


def test_an_acknowledged_record_after_one_in_flight():
    assert stock_offset(committed=31, acked=[32]) == 33  # 31 would never be read again
    progress = PartitionProgress()
    progress.deliver(31, 32)
    progress.hold(31)
    progress.settle_through(32)
    assert our_offset(progress) == 31


def test_the_first_commit_of_a_partition():
    assert stock_offset(committed=None, acked=[5]) == 6  # 0 to 4 would never be read again
    progress = PartitionProgress()
    progress.deliver(0, 4)
    progress.deliver(5, 5)
    assert our_offset(progress) == 0


def test_a_gap_in_the_offsets_before_a_record_in_flight():
    # 10 was read, 11 to 14 do not exist, 15 is in flight, 16 is acknowledged.
    assert stock_offset(committed=10, acked=[10, 16], gaps=[(11, 15)]) == 17
    progress = PartitionProgress()
    progress.deliver(10, 10)
    progress.settle_through(10)
    progress.deliver(15, 16)
    progress.hold(15)
    progress.settle_through(16)
    assert our_offset(progress) == 15


@pytest.mark.parametrize(("consumer", "noted"), [("stock", 7), ("ours", 3)])
def test_a_commit_that_the_broker_refused(consumer, noted):
    """Stock Faust notes the offset as committed all the same and would never try it again."""

    async def refused():
        async def nothing(*_args, **_kwargs):
            return False

        with our_app() as app:
            used = app.run_consumer
            used._committed_offset[TOPIC] = 3
            used.assignment = lambda: {TOPIC}
            used._commit = nothing
            app.producer.flush = nothing
            method = StockConsumer._commit_offsets if consumer == "stock" else type(used)._commit_offsets
            await method(used, {TOPIC: 7})
            return used._committed_offset[TOPIC]

    assert asyncio.run(refused()) == noted


@pytest.mark.parametrize(
    ("stored", "begins"),
    [
        ({tuple(TOPIC): 4}, 4),  # a backup was put back
        ({tuple(TOPIC): 9}, 7),
        ({("discreet.consent.v1", 0): 4}, 0),  # a backup of before the partition's first record
        ({}, 0),
        (None, 7),  # nobody asks the database
    ],
)
def test_reading_begins_where_the_effects_end(stored, begins):
    async def seek():
        async def held():
            return stored

        async def committed():
            return {TOPIC: 7}

        async def note(tp, offset):
            sought[tp] = offset

        with our_app() as app:
            used, sought = app.run_consumer, {TOPIC: 7}
            used.stored = None if stored is None else held
            used.assignment, used.seek_to_committed, used.seek = lambda: {TOPIC}, committed, note
            await used.perform_seek()
            return sought[TOPIC], used._committed_offset[TOPIC]

    assert asyncio.run(seek()) == (begins, begins)


@pytest.mark.parametrize(("stored", "begins"), [({tuple(TOPIC): 4}, 4), ({}, 0), (None, 7)])
def test_what_could_not_be_handed_over_is_read_again_from_where_the_effects_end(stored, begins):
    async def read_again():
        async def held():
            return stored

        async def committed(_partition):
            return 7

        async def at_once(call, *arguments):
            return await call(*arguments)

        with our_app() as app:
            used, sought = app.run_consumer, []
            used.stored = None if stored is None else held
            used.assignment = lambda: {TOPIC}
            thread = used._thread
            thread._consumer = SimpleNamespace(
                committed=committed, seek=lambda _partition, offset: sought.append(offset)
            )
            thread.call_thread = at_once
            await used._read_again({TOPIC})
            return sought

    assert asyncio.run(read_again()) == [begins]


@pytest.mark.parametrize(("consumer", "crashes"), [("stock", True), ("ours", False)])
def test_a_partition_whose_position_is_not_known_yet(consumer, crashes):
    """Stock Faust's watch for livelocks ends the worker then."""

    async def watch():
        with our_app() as app:
            used = app.run_consumer
            subscription = SubscriptionState()
            subscription.assign_from_user([TopicPartition(*TOPIC)])
            used._thread._consumer = SimpleNamespace(_fetcher=SimpleNamespace(_subscriptions=subscription))
            used._thread._verify_aiokafka_event_path = lambda *_: False
            used._thread.time_started = 0.0
            method = StockConsumer.verify_event_path if consumer == "stock" else type(used).verify_event_path
            try:
                method(used, 1.0, TOPIC)
            except AssertionError:
                return True
            return False

    assert asyncio.run(watch()) is crashes


@pytest.mark.parametrize(("consumer", "milliseconds"), [("stock", 1500), ("ours", 100)])
def test_how_long_a_fetch_may_keep_other_partitions_waiting(consumer, milliseconds):
    """A record in a partition that an open fetch did not ask for is not seen before the fetch ends."""

    async def wait():
        with our_app() as app:
            thread = app.run_consumer._thread
            method = StockThread if consumer == "stock" else type(thread)
            made = method._create_worker_consumer(thread, app.transport)
            await made.stop()
            return made._fetch_max_wait_ms

    assert asyncio.run(wait()) == milliseconds
