"""The relay sends rows in order per key, keeps what was not confirmed, and forgets what names a user."""

import threading
from datetime import timedelta

import pytest
from sqlmodel import select

from privacy.boundary.marks import Kind
from privacy.storage.session import transaction
from streams.broker.records import Blame, OutgoingRecord, SendFailure
from streams.errors import BrokerUnavailableError
from streams.outbox.relay import OutboxRelay
from streams.outbox.released import released_record
from streams.outbox.rows import add_record, forget_sent
from streams.outbox.tables import OutboxRow
from tests.fakes.stream_records import NOW, FakeSender

LINE = "discreet.adapter-events.v1"
CONSENT = "discreet.consent.v1"


def put(engine, *rows, at=NOW):
    with transaction(engine) as session:
        for topic, key, value in rows:
            record = released_record(Kind.ADAPTER_EVENT, OutgoingRecord(topic, key, value, [("ce_id", b"1")]))
            add_record(session, record, at)
            session.flush()


def drain(relay):
    while relay.relay_once(NOW):
        pass


def test_rows_of_one_key_leave_in_the_order_they_were_written(engine):
    put(engine, *[(LINE, b"k%d" % (number % 2), b"%d" % number) for number in range(6)])
    sender = FakeSender()
    relay = OutboxRelay(engine, sender, batch_rows=10)
    assert relay.relay_once(NOW) == 2
    drain(relay)
    assert [record.value for record in sender.sent if record.key == b"k0"] == [b"0", b"2", b"4"]
    assert [record.value for record in sender.sent if record.key == b"k1"] == [b"1", b"3", b"5"]
    assert relay.waiting() == 0


def test_what_the_broker_did_not_confirm_stays_and_leaves_later(engine):
    put(engine, (LINE, b"k", b"1"))
    sender = FakeSender(away=True)
    relay = OutboxRelay(engine, sender, batch_rows=10)
    with pytest.raises(BrokerUnavailableError):
        relay.relay_once(NOW)
    assert relay.waiting() == 1
    sender.away = False
    drain(relay)
    assert [record.value for record in sender.sent] == [b"1"]


def test_a_sent_record_that_names_a_user_is_not_kept(engine):
    put(engine, ("discreet.erasures.v1", b"acme/ada", b"{}"), (LINE, b"line", b"{}"))
    relay = OutboxRelay(engine, FakeSender(), batch_rows=10)
    drain(relay)
    with transaction(engine) as session:
        assert [row.key for row in session.exec(select(OutboxRow))] == [b"line"]
    with transaction(engine) as session:
        assert forget_sent(session, NOW, most=10) == 0
        assert forget_sent(session, NOW.replace(year=2027), most=10) == 1


def test_two_relays_at_once_keep_the_order_of_every_key(engine):
    relays = 1 if engine.dialect.name == "sqlite" else 2  # one machine, one relay
    put(engine, *[(LINE, b"k%d" % (number % 3), b"%03d" % number) for number in range(60)])
    sender = FakeSender()
    threads = [
        threading.Thread(target=drain, args=(OutboxRelay(engine, sender, batch_rows=2),))
        for _ in range(relays)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain(OutboxRelay(engine, sender, batch_rows=2))
    for key in (b"k0", b"k1", b"k2"):
        values = [record.value for record in sender.sent if record.key == key]
        assert values == sorted(values)
        assert len(values) == 20


def test_a_row_waits_for_its_time_and_is_sent_at_once_when_a_later_one_of_its_key_may_leave(engine):
    soon = NOW + timedelta(hours=1)
    put(engine, (LINE, b"a", b"held"), (LINE, b"b", b"held too"), at=soon)
    sender = FakeSender()
    relay = OutboxRelay(engine, sender, batch_rows=10)
    assert relay.relay_once(soon - timedelta(microseconds=1)) == 0
    put(engine, (LINE, b"a", b"withdrawn"), at=NOW)
    drain(relay)
    assert [record.value for record in sender.sent] == [b"held", b"withdrawn"]
    assert relay.relay_once(soon) == 1
    assert sender.sent[-1].value == b"held too"


class Noted:
    def __init__(self):
        self.seen = []

    def unsendable(self, topic, error):
        self.seen.append((topic, error))


def too_large(record):
    return SendFailure(Blame.RECORD, "MessageSizeTooLargeError") if record.value == b"huge" else None


def missing(record):
    return SendFailure(Blame.TOPIC, "KafkaTimeoutError") if record.topic == CONSENT else None


def late(record):
    return SendFailure(Blame.BROKER, "KafkaTimeoutError") if record.key == b"stuck" else None


@pytest.fixture
def world(engine):
    now = [0.0]
    sender, noted = FakeSender(), Noted()
    relay = OutboxRelay(engine, sender, batch_rows=10, observer=noted, monotonic=lambda: now[0])
    return now, sender, noted, relay


def test_a_row_that_cannot_be_sent_waits_alone_and_nothing_is_sent_twice(engine, world):
    now, sender, noted, relay = world
    sender.spoils = too_large
    put(engine, (LINE, b"a", b"1"), (LINE, b"bad", b"huge"), (LINE, b"bad", b"behind"), (LINE, b"b", b"2"))
    for _ in range(5):
        relay.relay_once(NOW)
        put(engine, (LINE, b"a", b"more"))
    relay.relay_once(NOW)
    assert [record.value for record in sender.sent] == [b"1", b"2"] + [b"more"] * 5
    assert (relay.parked, relay.waiting()) == (1, 2)
    assert noted.seen == [(LINE, "MessageSizeTooLargeError")]  # it waits: five turns, one attempt
    now[0] += 1
    relay.relay_once(NOW)
    assert len(noted.seen) == 2
    now[0] += 1
    relay.relay_once(NOW)
    assert len(noted.seen) == 2  # the second pause is longer
    sender.spoils = None  # somebody raised the topic's limit
    now[0] += 1
    drain(relay)
    assert [record.value for record in sender.sent][-2:] == [b"huge", b"behind"]
    assert (relay.parked, relay.waiting()) == (0, 0)


def test_a_topic_that_is_missing_holds_up_its_own_rows_only(engine, world):
    now, sender, noted, relay = world
    sender.spoils = missing
    put(engine, *[(CONSENT, b"k%d" % number, b"c") for number in range(20)], (LINE, b"line", b"1"))
    while relay.relay_once(NOW):
        pass
    relay.relay_once(NOW)
    assert [record.value for record in sender.sent] == [b"1"]
    assert (relay.parked, relay.waiting()) == (1, 20)
    now[0] += 1
    relay.relay_once(NOW)
    assert noted.seen == [(CONSENT, "KafkaTimeoutError")] * 2  # one row of twenty asks, not each
    sender.spoils = None
    now[0] += 2
    drain(relay)
    assert (relay.parked, relay.waiting()) == (0, 0)


def test_a_partition_without_a_leader_holds_up_its_own_rows_only(engine, world):
    _, sender, _, relay = world
    sender.spoils = late
    put(engine, (LINE, b"stuck", b"1"))
    with pytest.raises(BrokerUnavailableError):  # nothing tells it from a broker that is away
        relay.relay_once(NOW)
    assert relay.parked == 0
    sender.send_each = lambda records: [late(record) for record in records]  # the others are confirmed
    put(engine, (LINE, b"fine", b"2"))
    assert relay.relay_once(NOW) == 1
    assert (relay.parked, relay.waiting()) == (1, 1)


def test_what_a_crash_of_the_database_undoes_is_sent_again(engine, world, monkeypatch):
    """Marking comes after the confirmation: the other way round would lose records."""
    _, sender, _, relay = world
    put(engine, (LINE, b"a", b"1"))
    with monkeypatch.context() as patch:
        patch.setattr("streams.outbox.rows.mark_sent", crash)
        with pytest.raises(OSError, match="gone"):
            relay.relay_once(NOW)
    drain(relay)
    assert [record.value for record in sender.sent] == [b"1", b"1"]


def crash(*_):
    raise OSError("gone")
