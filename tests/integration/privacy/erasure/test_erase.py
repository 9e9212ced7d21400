"""Consents are ordered by event time; an erasure leaves no key, no consent, no signal, and a certificate."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from itertools import permutations

import pytest
from sqlmodel import select

from privacy.audit import trail as audit_trail
from privacy.audit.records import verify
from privacy.consent import statements as consents
from privacy.consent.admission import Consent
from privacy.consent.statements import ConsentStatement
from privacy.consent.tables import ConsentRow
from privacy.erasure import erase as erasures
from privacy.erasure.tables import ErasureRow
from privacy.keys.destruction import erased_among
from privacy.keys.keyring import Plaintext
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from privacy.storage.subjects import Subject
from tests.fakes.keys import BACKUPS, keyring_of, store_of

USER = Subject("acme", "p1")


@pytest.fixture
def acme(engine, clock):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=clock())


def said(clock, granted, *, seconds=0, subject=USER, purpose="training"):
    consent = Consent(granted=granted, notice_version="n1", occurred_at=clock() + timedelta(seconds=seconds))
    return ConsentStatement(subject=subject, purpose=purpose, consent=consent)


def record(engine, clock, statements):
    with transaction(engine) as session:
        consents.record(session, statements, now=clock())


def of(engine, subject=USER):
    with transaction(engine) as session:
        said_so = consents.lookup(session, [subject]).get(subject, {})
        return {purpose: consent.granted for purpose, consent in said_so.items()}


@pytest.mark.usefixtures("acme")
def test_the_order_of_arrival_does_not_matter(engine, clock):
    statements = [said(clock, True), said(clock, False, seconds=2), said(clock, True, seconds=1)]
    for number, order in enumerate(permutations(statements)):
        subject = Subject("acme", f"user {number}")
        for statement in order:
            moved = ConsentStatement(subject=subject, purpose=statement.purpose, consent=statement.consent)
            record(engine, clock, [moved])
        assert of(engine, subject) == {"training": False}


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("together", [True, False])
def test_a_withdrawal_wins_a_tie(engine, clock, together):
    statements = [said(clock, False), said(clock, True)]
    for batch in [statements] if together else [[statement] for statement in statements]:
        record(engine, clock, batch)
    assert of(engine) == {"training": False}
    record(engine, clock, [said(clock, True, seconds=1)])
    assert of(engine) == {"training": True}


@pytest.mark.usefixtures("acme")
def test_a_batch_is_looked_up_at_once(engine, clock):
    other = Subject("acme", "p2")
    record(
        engine,
        clock,
        [said(clock, True), said(clock, False, purpose="sharing"), said(clock, True, subject=other)],
    )
    with transaction(engine) as session:
        found = consents.lookup(session, [USER, other, USER, ("acme", "p3")])
        assert consents.consenting(session, "acme", "training") == {"p1", "p2"}
        assert consents.consenting(session, "acme", "sharing") == set()
        assert consents.lookup(session, []) == {}
    assert {subject: set(purposes) for subject, purposes in found.items()} == {
        USER: {"training", "sharing"},
        other: {"training"},
    }
    assert found[USER]["training"] == said(clock, True).consent


def erase(engine, clock, deleted, erasure_id="r1", subject=USER):
    with transaction(engine) as session:
        return erasures.erase(
            session,
            subject,
            erasure_id=erasure_id,
            requested_at=clock() - timedelta(hours=1),
            actor="worker",
            now=clock(),
            store=store_of(engine),
            backups=BACKUPS,
            delete_signals=lambda _session, *subject: deleted.append(subject) or 3,
            live_adapters=lambda _session, _tenant: ["a-2-v1", "a-1-v1"],
        )


@pytest.mark.usefixtures("acme")
def test_an_erasure_reaches_everything_and_says_so(engine, clock):
    record(engine, clock, [said(clock, True), said(clock, True, subject=Subject("acme", "p2"))])
    with transaction(engine) as session:
        keyring_of(engine).encrypt_many(session, [Plaintext("acme", "p1", b"row", b"x")], now=clock())
    deleted = []
    certificate = erase(engine, clock, deleted)
    assert deleted == [USER]
    assert certificate.keys_destroyed == 1
    assert certificate.live_adapters == ("a-1-v1", "a-2-v1")
    with transaction(engine) as session:
        assert erased_among(session, [USER, ("acme", "p2")]) == {USER}
        assert [row.pseudonym for row in session.exec(select(ConsentRow))] == ["p2"]
        assert erasures.certificates(session, "acme") == [certificate]
        trail = audit_trail.read(session, "acme")
        row = session.exec(select(ErasureRow)).one()
    assert store_of(engine).user_keys([USER]) == {USER: None}, "the key itself is gone, not only marked"
    assert verify(trail, expected_head=certificate.audit_digest) == 2
    assert "p1" not in str([record.to_document() for record in trail]) + str(certificate.to_document())
    assert row.deadline_at > row.completed_at


@pytest.mark.usefixtures("acme")
def test_a_repeated_request_returns_its_certificate_and_deletes_nothing_again(engine, clock):
    deleted = []
    first = erase(engine, clock, deleted)
    clock.advance(days=2)
    assert erase(engine, clock, deleted) == first
    assert deleted == [USER]
    assert first.keys_destroyed == 0
    second = erase(engine, clock, deleted, erasure_id="r2")
    assert second.issued_at == clock()
    assert len(deleted) == 2


@pytest.mark.usefixtures("acme")
def test_another_persons_request_of_the_same_id_is_carried_out_too(engine, clock):
    deleted, other = [], ("acme", "p2")
    record(engine, clock, [said(clock, True), said(clock, True, subject=Subject(*other))])
    first = erase(engine, clock, deleted)
    clock.advance(days=1)
    second = erase(engine, clock, deleted, subject=other)
    assert deleted == [USER, other]
    assert (first.erasure_id, second.erasure_id) == ("r1", "r1")
    assert second.issued_at > first.issued_at
    assert erase(engine, clock, deleted) == first
    assert erase(engine, clock, deleted, subject=other) == second
    with transaction(engine) as session:
        assert erased_among(session, [USER, other]) == {USER, other}
        assert erasures.certificates(session, "acme") == [first, second]


@pytest.mark.usefixtures("acme")
def test_an_erasure_that_fails_leaves_everything_as_it_was(engine, clock):
    record(engine, clock, [said(clock, True)])

    def fail(*_):
        raise RuntimeError("the signals cannot be deleted")

    with pytest.raises(RuntimeError), transaction(engine) as session:
        erasures.erase(
            session,
            USER,
            erasure_id="r1",
            requested_at=clock(),
            actor="worker",
            now=clock(),
            store=store_of(engine),
            backups=BACKUPS,
            delete_signals=fail,
        )
    assert of(engine) == {"training": True}
    with transaction(engine) as session:
        assert erased_among(session, [USER]) == frozenset()


@pytest.mark.usefixtures("acme")
def test_an_erasure_waits_for_batches_under_way_and_then_sees_their_rows(engine, clock):
    keyring = keyring_of(engine)
    sealed = threading.Event()
    with transaction(engine) as session:  # so that the key exists and its insertion makes nobody wait
        keyring.encrypt_many(session, [Plaintext("acme", "p1", b"row", b"x")], now=clock())

    def ingest():
        with transaction(engine) as session:
            keyring.encrypt_many(session, [Plaintext("acme", "p1", b"row", b"x")], now=clock())
            sealed.set()
            time.sleep(0.3)  # long enough for an erasure that does not wait to overtake
            consents.record(session, [said(clock, True)], now=clock())

    batch = threading.Thread(target=ingest)
    batch.start()
    assert sealed.wait(timeout=30)
    certificate = erase(engine, clock, [])
    batch.join()
    assert certificate.keys_destroyed == 1
    assert of(engine) == {}
