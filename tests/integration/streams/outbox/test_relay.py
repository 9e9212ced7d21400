"""The relay sends rows in order per key, keeps what was not confirmed, and forgets what names a user."""

import threading

import pytest
from sqlmodel import select

from privacy.storage.session import transaction
from streams.broker.records import OutgoingRecord
from streams.errors import BrokerUnavailableError
from streams.outbox.relay import OutboxRelay
from streams.outbox.rows import add_record
from streams.outbox.tables import OutboxRow
from tests.fakes.stream_records import NOW, FakeSender

LINE = "discreet.adapter-events.v1"


def put(engine, *rows):
    with transaction(engine) as session:
        for topic, key, value in rows:
            add_record(session, OutgoingRecord(topic, key, value, [("ce_id", b"1")]), NOW)
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
    assert relay.forget(NOW) == 0
    assert relay.forget(NOW.replace(year=2027)) == 1


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
