"""The relay on a real broker: one row that its topic does not take, among rows that it does."""

from __future__ import annotations

import secrets

import pytest
from kafka import KafkaAdminClient, KafkaConsumer

from privacy.boundary.marks import Kind
from privacy.storage.session import transaction
from streams.broker.clients import KafkaSender
from streams.broker.records import OutgoingRecord
from streams.outbox.relay import OutboxRelay
from streams.outbox.released import released_record
from streams.outbox.rows import add_record
from streams.settings import BrokerSettings
from tests.conftest import KAFKA
from tests.fakes.stream_records import NOW

GOOD = 20


def test_one_row_too_large_neither_stops_nor_multiplies_the_others(engine, kafka_bootstrap):
    if kafka_bootstrap != KAFKA:
        pytest.skip("the embedded one takes it")
    topic = f"relay-{secrets.token_hex(6)}"
    with KafkaAdminClient(bootstrap_servers=KAFKA) as admin:
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    values = [b"%d" % number for number in range(GOOD)]
    rows = [*values[:10], b"x" * 2 * 2**20, *values[10:]]
    with transaction(engine) as session:
        for number, value in enumerate(rows):
            record = OutgoingRecord(topic, b"k%d" % number, value, [("ce_id", b"1")])
            add_record(session, released_record(Kind.ADAPTER_EVENT, record), NOW)
            session.flush()
    sender = KafkaSender(BrokerSettings(bootstrap=KAFKA, delivery_timeout_seconds=10))
    relay = OutboxRelay(engine, sender, batch_rows=100)
    try:
        for _ in range(5):
            relay.relay_once(NOW)
    finally:
        sender.close()
    assert (relay.waiting(), relay.parked) == (1, 1)
    with KafkaConsumer(
        topic, bootstrap_servers=KAFKA, auto_offset_reset="earliest", consumer_timeout_ms=2_000
    ) as consumer:
        written = [read.value for read in consumer]
    assert set(written) == set(values)
    assert len(written) <= 2 * GOOD  # the turn that failed, and each row alone; never again
