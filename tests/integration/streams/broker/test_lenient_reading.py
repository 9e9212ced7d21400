"""Records that some producer may write and that stop naive consumers: each has its effect or its letter."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import aiokafka
import pytest
from aiokafka import codec
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import TopicAlreadyExistsError
from kafka.serializer import Serializer

from privacy.policy import versions as policies
from privacy.policy.cache import TenantPolicies
from privacy.storage.session import transaction
from streams.broker.app import make_app
from streams.broker.clients import KafkaSender
from streams.contracts.dead_letter import DeadLetter
from streams.contracts.topics import DEAD_LETTERS
from streams.ingest.consents import ConsentHandler
from streams.ingest.intake import Intake
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.ingest.work import Work
from streams.settings import BrokerSettings, IngestSettings
from tests.fakes.keys import keyring_of
from tests.fakes.stream_records import NOW, consent, interaction

DEADLINE_SECONDS = 90
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Nothing(Serializer):
    """Makes every value null, which the producer's own check of its arguments does not expect."""

    def serialize(self, *_args, **_options):
        return None


class RawName(str):
    """A header name of bytes that are not UTF-8."""

    __slots__ = ()

    def encode(self, *_args, **_options):
        return b"\xff\xfe name"


@pytest.fixture
def topic(kafka_bootstrap):
    name = f"awkward-{secrets.token_hex(6)}"
    with KafkaAdminClient(bootstrap_servers=kafka_bootstrap) as admin:
        for each in (name, DEAD_LETTERS.name):
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics(
                    {each: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True
                )
    return name


def ingest(bootstrap, topic, engine, expected):
    """Run a worker's interaction path until so many events had their fate; return effects and letters."""
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=NOW)
    settings = BrokerSettings(bootstrap=bootstrap, embedded=True, group=topic)
    sender = KafkaSender(settings)
    shared = {
        "engine": engine,
        "letters": DeadLetterSink(sender, topic),
        "clock": lambda: NOW,
        "keyring": keyring_of(engine),
        "policies": TenantPolicies(60.0),
        "max_event_bytes": 65_536,
    }
    ConsentHandler(**shared).process([Work(consent(), 0.0)])
    handler = InteractionHandler(**shared, redact=lambda text: text)
    done = {"effect": 0, "letter": 0}

    class Counting:
        def batch_done(self, _topic, _works, outcome, _seconds):
            done["effect"] += outcome.effects
            done["letter"] += outcome.dead_letters

        def retrying(self, _topic):
            pass

    async def main():
        intake = Intake(topic, handler, IngestSettings(poison_share=2.0), Counting())
        app = make_app(settings, {topic: intake}, max_poll_records=10)
        loop = asyncio.create_task(intake.run())
        await app.start()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while sum(done.values()) < expected and not loop.done():
                    await asyncio.sleep(0.05)
            if loop.done():
                loop.result()
        finally:
            await app.stop()
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    try:
        asyncio.run(main())
    finally:
        sender.close()
    return done


def letters_of(bootstrap, topic):
    with KafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=4 * 2**20) as consumer:
        numbers = consumer.partitions_for_topic(DEAD_LETTERS.name)
        partitions = [TopicPartition(DEAD_LETTERS.name, number) for number in numbers]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends, records = consumer.end_offsets(partitions), []
        while any(consumer.position(each) < end for each, end in ends.items()):
            records.extend(record for found in consumer.poll(300).values() for record in found)
    read = [(DeadLetter.from_headers(record.headers), record) for record in records]
    return {letter.offset: (letter, record) for letter, record in read if letter.topic == topic}


def test_records_without_key_value_or_header_value_are_dead_lettered(kafka_bootstrap, topic, engine):
    good = interaction(event_id="good")

    async def produce():
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
            await producer.send_and_wait(topic, b"{", headers=[("ce_id", None)])

    with KafkaProducer(bootstrap_servers=kafka_bootstrap, value_serializer=Nothing()) as producer:
        producer.send(topic, "nothing at all").get(30)
    asyncio.run(produce())
    with KafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        producer.send(topic, good.value, key=good.key, headers=list(good.headers)).get(30)
    assert ingest(kafka_bootstrap, topic, engine, 3) == {"effect": 1, "letter": 2}
    letters = letters_of(kafka_bootstrap, topic)
    assert {offset: letter.reason.value for offset, (letter, _) in letters.items()} == {
        0: "empty",
        1: "envelope_invalid",
    }


def test_a_header_whose_name_is_not_utf8_does_not_stop_its_partition(kafka_bootstrap, topic, engine):
    records = [interaction(event_id=f"e{number}") for number in range(4)]
    with KafkaProducer(bootstrap_servers=kafka_bootstrap, linger_ms=200) as producer:  # one batch
        for number, record in enumerate(records):
            headers = list(record.headers)
            if number == 1:
                headers.append((RawName("x"), b"v"))
            value = b"{" if number == 2 else record.value
            producer.send(topic, value, key=record.key, headers=headers)
    assert ingest(kafka_bootstrap, topic, engine, 4) == {"effect": 3, "letter": 1}
    assert list(letters_of(kafka_bootstrap, topic)) == [2]


def test_key_and_headers_too_large_for_a_letter_are_left_out_and_named(kafka_bootstrap, topic, engine):
    headers = [("large", b"x" * 1_000_000)]
    with KafkaProducer(bootstrap_servers=kafka_bootstrap, max_request_size=2**21) as producer:
        producer.send(topic, b"{", key=b"k", headers=headers).get(30)
    assert ingest(kafka_bootstrap, topic, engine, 1) == {"effect": 0, "letter": 1}
    ((letter, record),) = letters_of(kafka_bootstrap, topic).values()
    assert "not kept: key and headers" in letter.detail
    assert (record.value, "large" in dict(record.headers)) == (b"{", False)


@pytest.mark.parametrize("compression", ["gzip", "lz4", "snappy", "zstd"])
def test_every_compression_of_kafka_can_be_read(kafka_bootstrap, topic, engine, compression):
    if not getattr(codec, f"has_{compression}")():
        pytest.skip(f"cramjam, which reads {compression}, is not installed in this environment")

    async def produce():
        async with aiokafka.AIOKafkaProducer(
            bootstrap_servers=kafka_bootstrap, compression_type=compression
        ) as producer:
            for number in range(3):
                record = interaction(event_id=f"e{number}")
                await producer.send_and_wait(
                    topic, record.value, key=record.key, headers=list(record.headers)
                )

    asyncio.run(produce())
    assert ingest(kafka_bootstrap, topic, engine, 3) == {"effect": 3, "letter": 0}
