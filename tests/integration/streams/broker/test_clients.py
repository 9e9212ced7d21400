"""The sender says of each record what became of it, whatever its neighbours did, on real brokers."""

from __future__ import annotations

import secrets
import socket
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError
from kafka.producer.future import FutureProduceResult, FutureRecordMetadata

from streams.broker.clients import KafkaSender
from streams.broker.records import Blame, OutgoingRecord, SendFailure
from streams.settings import BrokerSettings
from tests.conftest import KAFKA


@pytest.fixture
def topic(kafka_bootstrap):
    name = f"each-{secrets.token_hex(6)}"
    with KafkaAdminClient(bootstrap_servers=kafka_bootstrap) as admin:
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    return name


@pytest.fixture
def sender(kafka_bootstrap):
    sender = KafkaSender(
        BrokerSettings(bootstrap=kafka_bootstrap, delivery_timeout_seconds=10), topic_seconds=0.5
    )
    yield sender
    sender.close()


def record(topic, value=b"v", headers=()):
    return OutgoingRecord(topic, b"k", value, list(headers))


def written(bootstrap, topic):
    with KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=2_000
    ) as consumer:
        return [read.value for read in consumer]


def test_a_record_too_large_for_the_client_goes_into_no_other_records_way(kafka_bootstrap, topic, sender):
    outcome = sender.send_each([record(topic, b"1"), record(topic, b"x" * 5 * 2**20), record(topic, b"2")])
    assert [failure and failure.blame for failure in outcome] == [None, Blame.RECORD, None]
    assert written(kafka_bootstrap, topic) == [b"1", b"2"]


def test_a_record_too_large_for_its_topic_spoils_only_one_turn(kafka_bootstrap, topic, sender):
    if kafka_bootstrap != KAFKA:
        pytest.skip("the embedded one takes it")
    huge = record(topic, b"x" * 2 * 2**20)
    sender.send_each(
        [record(topic, b"1"), huge, record(topic, b"2")]
    )  # the producer fails what comes after it
    assert sender.send_each([huge]) == [SendFailure(Blame.RECORD, "MessageSizeTooLargeError")]
    assert sender.send_each([record(topic, b"3")]) == [None]


def test_a_record_that_the_client_cannot_write_is_to_blame(topic, sender):
    outcome = sender.send_each([record(topic, headers=[("h", None)]), record(topic)])
    assert [failure and failure.blame for failure in outcome] == [Blame.RECORD, None]


def test_a_topic_that_is_missing_is_to_blame_and_waited_for_once(kafka_bootstrap, topic, sender):
    if kafka_bootstrap != KAFKA:
        pytest.skip("the embedded one makes a topic of every name")
    nowhere = f"nowhere-{secrets.token_hex(6)}"
    sender.send_each([record(topic)])  # connected
    began = time.monotonic()
    outcome = sender.send_each([*[record(nowhere)] * 5, record(topic, b"2")])
    assert [failure and failure.blame for failure in outcome] == [*[Blame.TOPIC] * 5, None]
    assert time.monotonic() - began < 5
    assert written(kafka_bootstrap, topic) == [b"v", b"2"]


def test_a_broker_that_does_not_answer_is_to_blame(caplog):
    caplog.set_level("CRITICAL", logger="kafka")  # records of the log would keep connections
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = BrokerSettings(
            bootstrap=f"127.0.0.1:{silent.getsockname()[1]}", delivery_timeout_seconds=0.2
        )
        outcome = KafkaSender(settings).send_each([record("t")] * 2)
    assert [failure and failure.blame for failure in outcome] == [Blame.BROKER] * 2


class Scripted:
    """A producer that knows the topic ``t`` and refuses ``denied``."""

    def __init__(self):
        self.asked = []

    def send(self, topic, **_record):
        self.asked.append(topic)
        if topic == "missing":
            raise KafkaTimeoutError("no metadata")
        future = FutureRecordMetadata(FutureProduceResult((topic, 0)), 0, 0, None, 0, 0, 0)
        if topic == "denied":
            return future.failure(TopicAuthorizationFailedError({topic}))
        if topic == "t":
            future._produce_future.success((0, 0, None))
        return future

    def flush(self, timeout):
        raise KafkaTimeoutError(f"not all within {timeout} s")

    def close(self, timeout):
        pass


def test_every_record_gets_a_verdict_of_its_own():
    sender, producer = KafkaSender(BrokerSettings()), Scripted()
    sender._producer = producer
    outcome = sender.send_each([record(name) for name in ("t", "missing", "missing", "denied", "late", "t")])
    assert [failure and failure.blame for failure in outcome] == [
        None,
        Blame.TOPIC,
        Blame.TOPIC,
        Blame.TOPIC,
        Blame.BROKER,
        None,
    ]
    assert producer.asked.count("missing") == 1
    assert sender._producer is None  # it may be spoiled
