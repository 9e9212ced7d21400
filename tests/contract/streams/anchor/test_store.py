"""One suite for every place where the anchor may lie: files, topics in memory, topics of Apache Kafka."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime

import pytest
from kafka import KafkaAdminClient

from privacy.boundary.marks import Kind
from privacy.errors import AnchorUnavailableError
from streams.anchor.file import FileAnchor
from streams.anchor.seal import AnchorSeal
from streams.anchor.topic import TopicAnchor
from streams.client import KafkaBroker
from streams.client.testing import InMemoryBroker
from streams.contracts.anchor import AnchorTenantV1, ErasedV1
from streams.contracts.topics import ANCHOR, ANCHOR_TENANT, ERASED, USER_ERASED

KAFKA = os.environ.get("DISCREET_TEST_KAFKA", "")
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
SEAL = AnchorSeal(lambda: bytes(range(32)))


class Renamed:
    """A broker that many share, on which every test has topics of its own."""

    def __init__(self, inner, prefix):
        self._inner, self._prefix = inner, prefix

    def open_sink(self):
        sink = self._inner.open_sink()
        send = sink.send
        sink.send = lambda record, done: send(record._replace(topic=self._prefix + record.topic), done)
        return sink

    def open_source(self, topic):
        return self._inner.open_source(self._prefix + topic)


@pytest.fixture(params=["file", "memory", *(["kafka"] if KAFKA else [])])
def place(request, tmp_path):
    """What opens another store over the same records, as another process would."""
    if request.param == "file":
        yield lambda: FileAnchor(tmp_path / "anchor")
        return
    if request.param == "memory":
        broker = InMemoryBroker()
    else:
        broker = Renamed(
            KafkaBroker(bootstrap=KAFKA, connect_seconds=60, delivery_seconds=60),
            f"t-{uuid.uuid4().hex[:8]}-",
        )
        with KafkaAdminClient(bootstrap_servers=KAFKA) as admin:
            wanted = {"num_partitions": 1, "replication_factor": 1, "configs": ANCHOR.configs()}
            names = {broker._prefix + topic.name: wanted for topic in (ANCHOR, ERASED)}
            admin.create_topics(names, wait_for_metadata=True)
    opened = []

    def another():
        opened.append(TopicAnchor(broker))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


def tenant(owner="acme", **changes):
    event = AnchorTenantV1(group="g", owner=owner, timeline=0, **changes)
    return SEAL.sealed(Kind.ANCHOR, event, ANCHOR_TENANT, NOW)


def erased(number):
    event = ErasedV1(group="g", tenant_id="acme", pseudonym=f"{number:064x}", erased_at=NOW)
    return SEAL.sealed(Kind.ERASURE_REGISTER, event, USER_ERASED, NOW)


def latest(records):
    return {record.key: record.value for record in records}


def test_what_is_written_is_read_by_others_and_signed(place):
    one, two = place(), place()
    assert list(one.read()) == list(two.read()) == []
    one.write([tenant(erasures=1), tenant("beta")])
    found = two.read()
    assert latest(found) == latest([tenant(erasures=1), tenant("beta")])
    assert all(SEAL.genuine(record) for record in found)
    assert not any(AnchorSeal(lambda: bytes(32)).genuine(record) for record in found)


def test_the_last_record_of_a_key_stands(place):
    one, two = place(), place()
    one.write([tenant(erasures=1)])
    two.read()
    one.write([tenant(erasures=2), tenant("beta", erasures=3)])
    assert latest(two.read()) == latest([tenant(erasures=2), tenant("beta", erasures=3)])
    assert list(two.read()) == []
    assert latest(place().read()) == latest([tenant(erasures=2), tenant("beta", erasures=3)])


def test_the_register_of_erasures_keeps_everybody(place):
    one = place()
    assert list(one.erased()) == []
    one.write([erased(1), tenant()])
    one.write([erased(2), erased(3)])
    found = list(place().erased())
    assert latest(found) == latest([erased(number) for number in (1, 2, 3)])
    assert all(SEAL.genuine(record) for record in found)


def test_a_file_that_is_damaged_is_not_taken_for_an_empty_one(tmp_path):
    path = tmp_path / "anchor"
    FileAnchor(path).write([tenant(), erased(1)])
    path.write_text(path.read_text()[:40])
    with pytest.raises(AnchorUnavailableError, match="cannot be read"):
        FileAnchor(path).read()
    register = tmp_path / "anchor.erased"
    with register.open("a") as file:
        file.write('{"key": "half a li')  # a crash: nobody was told that it is kept
    assert len(list(FileAnchor(path).erased())) == 1
    FileAnchor(path).write([erased(2)])
    assert len(list(FileAnchor(path).erased())) == 2
    register.write_text("no line\n" + register.read_text())
    with pytest.raises(AnchorUnavailableError, match="line 1"):
        FileAnchor(path).erased()


def test_a_broker_that_is_away_or_has_no_topic_is_told_and_comes_back(tmp_path):
    broker = InMemoryBroker({})
    store = TopicAnchor(broker, confirm_seconds=0.1, read_seconds=0.1)
    with pytest.raises(AnchorUnavailableError, match="discreet topics create"):
        store.read()
    for topic in (ANCHOR, ERASED):
        broker.create_topic(topic.name)
    broker.set_reachable(False)
    for act in (store.read, store.erased, lambda: store.write([tenant()])):
        with pytest.raises(AnchorUnavailableError):
            act()
    broker.set_reachable(True)
    broker.fail_next([TimeoutError()])
    with pytest.raises(AnchorUnavailableError, match="did not confirm"):
        store.write([tenant()])
    store.write([tenant()])
    assert latest(store.read()) == latest([tenant()])
    store.close()
