"""Whose consent counts: the later decision, for training alone, until it is withdrawn or its user erased."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from streams.client import ConsentPublisher, ConsentPurpose, ErasurePublisher
from streams.client.testing import InMemoryBroker
from streams.contracts.codec import Record
from streams.contracts.topics import CONSENT
from streams.gateway.consents import Consents

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def broker():
    return InMemoryBroker()


def read(broker, **more):
    """Return the consents after everything that is there was read."""
    consents = Consents(broker, **more)
    stop = threading.Event()
    thread = threading.Thread(target=consents.run, args=(stop,))
    thread.start()
    while not consents.caught_up:
        assert thread.is_alive()
    stop.set()
    thread.join()
    return consents


def publish(broker, act, *, at=NOW, user="ann", notice="n1", purpose=ConsentPurpose.TRAINING):
    with ConsentPublisher(broker, source="/test") as publisher:
        getattr(publisher, act)(
            tenant_id="acme", user_id=user, notice_version=notice, purpose=purpose, occurred_at=at
        )


def test_a_grant_counts_under_its_notice_and_for_its_user_alone(broker):
    publish(broker, "grant", notice="2026-01")
    consents = read(broker)
    assert consents.notice("acme", "ann") == "2026-01"
    assert consents.notice("acme", "bob") is None
    assert consents.notice("globex", "ann") is None


def test_another_purpose_is_no_consent_to_training(broker):
    publish(broker, "grant", purpose=ConsentPurpose.SHARING)
    assert read(broker).notice("acme", "ann") is None


@pytest.mark.parametrize(
    ("first", "then", "counts"), [("grant", "withdraw", False), ("withdraw", "grant", True)]
)
def test_of_two_decisions_the_later_counts_in_whatever_order_they_come(broker, first, then, counts):
    publish(broker, then, at=NOW + timedelta(seconds=5))
    publish(broker, first, at=NOW)
    assert (read(broker).notice("acme", "ann") is not None) == counts


def test_a_withdrawal_an_erasure_and_a_tombstone_each_end_it_and_forget(broker):
    for end in ("withdrawal", "erasure", "tombstone"):
        user = f"a/{end}"  # ids may hold slashes
        publish(broker, "grant", user=user)
        if end == "withdrawal":
            publish(broker, "withdraw", user=user, at=NOW + timedelta(seconds=1))
        elif end == "erasure":
            with ErasurePublisher(broker, source="/test") as erasures:
                erasures.request(tenant_id="acme", user_id=user, occurred_at=NOW + timedelta(seconds=1))
        else:
            record = Record(CONSENT.name, f"acme/{user}/training".encode(), None, [])
            broker.open_sink().send(record, lambda _: None)
    forgotten = []
    consents = Consents(broker, forget=lambda *who: forgotten.append(who))
    # Erasures are read after the consents here, as they are when they happen later.
    for topic in consents._sources:
        for record in broker.records(topic):
            consents.take(topic, record)
    assert [consents.notice("acme", f"a/{end}") for end in ("withdrawal", "erasure", "tombstone")] == [
        None
    ] * 3
    assert set(forgotten) == {("acme", f"a/{end}") for end in ("withdrawal", "erasure", "tombstone")}


def test_a_new_grant_after_an_erasure_counts(broker):
    with ErasurePublisher(broker, source="/test") as erasures:
        erasures.request(tenant_id="acme", user_id="ann", occurred_at=NOW)
    publish(broker, "grant", at=NOW + timedelta(days=1))
    assert read(broker).notice("acme", "ann") == "n1"


def test_what_cannot_be_read_is_nobodys_consent_and_stops_nothing(broker):
    broker.open_sink().send(Record(CONSENT.name, b"acme/ann/training", b"{", []), lambda _: None)
    publish(broker, "grant", user="bob")
    consents = read(broker)
    assert consents.notice("acme", "ann") is None
    assert consents.notice("acme", "bob") == "n1"


def test_memory_is_bounded_and_errs_on_the_side_of_no(broker):
    for user in ("ann", "bob", "cleo"):
        publish(broker, "grant", user=user)
    consents = read(broker, most=2)
    assert len(consents) == 2
    assert [consents.notice("acme", user) for user in ("ann", "bob", "cleo")].count(None) == 1
