"""Records through a real broker, and databases on a real PostgreSQL, for pipelines that otherwise hand them over."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import replace

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from privacy.storage.session import open_engine
from tests.fakes.stream_records import FakeSender

KIND = "pipeline_kind"  # a header of ours, which says on which topic a record belongs
_WAIT_MILLISECONDS = 30_000


class Post(FakeSender):
    """Sends records to a topic of its own and keeps them as they come back, in order.

    Args:
        bootstrap: the broker.
    """

    def __init__(self, bootstrap: str) -> None:
        super().__init__()
        self._bootstrap = bootstrap
        self._topic = f"pipeline-{secrets.token_hex(6)}"
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        admin.create_topics({self._topic: {"num_partitions": 1, "replication_factor": 1}})
        admin.close()
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
        self._consumer = KafkaConsumer(
            self._topic,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=_WAIT_MILLISECONDS,
        )

    def close(self) -> None:
        self._producer.close()
        self._consumer.close()

    def there_and_back(self, records):
        """Send records, each with what it is on top, and return what was read of each."""
        for kind, record in records:
            headers = [*record.headers, (KIND, kind.encode())]
            self._producer.send(self._topic, value=record.value, key=record.key, headers=headers)
        self._producer.flush()
        for _, record in records:
            read = next(self._consumer)
            *headers, (_, kind) = read.headers
            yield kind.decode(), record, read.key, read.value, headers

    def deliver(self, arriving):
        """Return what arrives of (kind, record); where a record lay is the original's."""
        return [
            (kind, replace(record, key=key, value=value, headers=tuple(headers)))
            for kind, record, key, value, headers in self.there_and_back(arriving)
        ]

    def send_all(self, records):
        waiting = [(record.topic, record) for record in records]
        for topic, record, key, value, headers in self.there_and_back(waiting):
            self.sent.append(type(record)(topic, key, value, headers))

    def send_each(self, records):
        self.send_all(records)
        return [None] * len(records)


@contextmanager
def fresh_postgres(administrator: str, template: str):
    """Yield an engine over a copy of a migrated database, and drop it."""
    name = f"discreet_pipeline_{secrets.token_hex(6)}"
    _as_administrator(administrator, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = make_url(administrator).set(database=name).render_as_string(hide_password=False)
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()
        _as_administrator(administrator, f"DROP DATABASE {name} WITH (FORCE)")


def _as_administrator(administrator: str, statement: str) -> None:
    engine = create_engine(administrator, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
