"""A topic whose receiver is full is not fetched, and holds up no other topic."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from streams.broker.app import make_app
from streams.settings import BrokerSettings

RECORDS = 60


class Receiver:
    """Takes runs; once full it is, as an intake whose early events wait for their consents."""

    def __init__(self, room=None):
        self.room = room
        self.records = []

    @property
    def full(self):
        return self.room is not None and len(self.records) >= self.room

    async def offer(self, run):
        self.records.extend(run.records)
        run.progress.settle_through(run.records[-1].offset)

    async def drain(self):
        pass


@pytest.fixture
def topics(kafka_bootstrap):
    names = [f"{kind}-{secrets.token_hex(6)}" for kind in ("full", "open")]
    with KafkaAdminClient(bootstrap_servers=kafka_bootstrap) as admin:
        admin.create_topics(
            {name: {"num_partitions": 4, "replication_factor": 1} for name in names}, wait_for_metadata=True
        )
    return names


def test_what_is_full_is_fetched_no_further_while_the_others_go_on(kafka_bootstrap, topics):
    full, open_ = topics
    receivers = {full: Receiver(room=1), open_: Receiver()}

    def produce(topic):
        with KafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
            for number in range(RECORDS):
                producer.send(topic, b"x", partition=number % 4).get(30)

    async def main():
        settings = BrokerSettings(bootstrap=kafka_bootstrap, embedded=True, group=full)
        app = make_app(settings, receivers, max_poll_records=5)
        await app.start()
        try:
            async with asyncio.timeout(90):
                while not receivers[full].full:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(produce, open_)
                while len(receivers[open_].records) < RECORDS:
                    await asyncio.sleep(0.05)
                taken = len(receivers[full].records)
                receivers[full].room = None
                while len(receivers[full].records) < RECORDS:
                    await asyncio.sleep(0.05)
        finally:
            await app.stop()
        return taken

    produce(full)
    assert asyncio.run(main()) <= 2 * 5  # what one fetch in flight may add
