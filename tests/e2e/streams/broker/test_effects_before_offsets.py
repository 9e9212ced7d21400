"""On a real broker: an exception while processing loses a batch under stock Faust, and never under ours."""

import asyncio
import contextlib
import os
import secrets

import faust
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from streams.broker.app import make_app
from streams.broker.embedded import EmbeddedBroker
from streams.ingest.intake import Intake
from streams.ingest.work import Outcome
from streams.settings import BrokerSettings, IngestSettings

EVENTS = 20
DEADLINE_SECONDS = 100


KAFKA = os.environ.get("DISCREET_TEST_KAFKA", "")


@pytest.fixture(scope="module", params=["embedded", *(["kafka"] if KAFKA else [])])
def broker(request):
    if request.param == "kafka":
        yield KAFKA
        return
    with EmbeddedBroker() as running:
        yield running.bootstrap


@pytest.fixture
def name():
    """A topic and a group of the test's own."""
    return f"effects-{secrets.token_hex(6)}"


def topic_with_events(bootstrap, name):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    with KafkaProducer(bootstrap_servers=bootstrap) as producer:
        for number in range(EVENTS):
            producer.send(name, value=b"%d" % number, partition=0)


def committed(bootstrap, group, topic):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    try:
        return consumer.committed(TopicPartition(topic, 0)) or 0
    finally:
        consumer.close()


async def run_until(app, done, all_committed):
    """Run the app until the effects are there, and on until their offsets are committed or the time is over."""
    await app.start()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not done():
                await asyncio.sleep(0.05)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await asyncio.to_thread(all_committed):
                    await asyncio.sleep(0.2)
    finally:
        await app.stop()


@pytest.mark.timeout(400)
def test_stock_faust_commits_what_raised(broker, name, tmp_path):
    topic_with_events(broker, name)
    effects = []
    failures = [b"3", b"4"]

    async def main():
        app = faust.App(
            name,
            datadir=tmp_path,
            broker=f"kafka://{broker}",
            broker_session_timeout=12.0,
            broker_heartbeat_interval=1.0,
            broker_commit_interval=0.5,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            store="memory://",
            value_serializer="raw",
        )

        @app.agent(app.topic(name, value_type=bytes))
        async def work(stream):
            async for value in stream:
                if value in failures:
                    raise RuntimeError("the database is away for a moment")
                effects.append(value)

        await run_until(
            app,
            lambda: len(effects) >= EVENTS - len(failures),
            lambda: committed(broker, name, name) == EVENTS,
        )

    asyncio.run(main())
    assert not set(effects) & set(failures)
    assert committed(broker, name, name) == EVENTS  # two events are lost without a trace


@pytest.mark.timeout(400)
def test_ours_commits_only_after_the_effect(broker, name):
    topic_with_events(broker, name)
    effects = []

    class Failing:
        """A handler with a bug that hits every third event, for ever."""

        def process(self, works, offsets=None):
            if any(work.record.offset % 3 == 0 for work in works):
                raise RuntimeError("a bug")
            effects.extend(("effect", work.record.offset) for work in works)
            return Outcome(effects=len(works))

        def refuse(self, work, error):
            effects.append(("letter", work.record.offset))

    async def main():
        settings = BrokerSettings(bootstrap=broker, embedded=True, group=name)
        intake = Intake(name, Failing(), IngestSettings(poison_share=2.0))
        app = make_app(settings, {name: intake}, max_poll_records=7)
        loop = asyncio.create_task(intake.run())
        await run_until(app, lambda: len(effects) >= EVENTS, lambda: committed(broker, name, name) == EVENTS)
        loop.cancel()

    asyncio.run(main())
    fates = {offset: fate for fate, offset in effects}
    assert len(effects) == EVENTS
    assert fates == {number: "letter" if number % 3 == 0 else "effect" for number in range(EVENTS)}
    assert committed(broker, name, name) == EVENTS
