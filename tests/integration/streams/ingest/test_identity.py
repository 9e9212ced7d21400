"""An id belongs to one user of one tenant: nobody's event, accepted or refused, stands in for another's."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import select

from personalization.signals.rows import SignalRow
from privacy.erasure.tables import ErasureRow
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.contracts.envelope import sender_digest
from streams.ingest.acks import AckHandler
from streams.ingest.letters import DeadLetterSink
from streams.ingest.tables import ProcessedEventRow
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, ack, consent, erasure, interaction


@pytest.fixture
def world(engine):
    world = IngestWorld(engine)
    with transaction(engine) as session:
        policies.register_tenant(session, "beta", actor="ann", now=NOW)
    world.take(
        world.consents,
        *(consent(user, tenant=tenant) for tenant in ("acme", "beta") for user in ("ada", "bob")),
    )
    return world


def owners(world):
    with transaction(world.engine) as session:
        return {(row.tenant_id, row.pseudonym) for row in session.exec(select(SignalRow))}


@pytest.mark.parametrize("together", [True, False])
def test_one_id_of_two_users_and_two_tenants_is_four_events(world, together):
    events = [
        interaction(user, "17", tenant=tenant, offset=offset)
        for offset, (tenant, user) in enumerate(
            [("acme", "ada"), ("acme", "bob"), ("beta", "ada"), ("beta", "bob")]
        )
    ]
    for batch in [events] if together else [[event] for event in events]:
        assert world.take(world.interactions, *batch).effects == len(batch)
    assert len(owners(world)) == 4
    assert world.take(world.interactions, *(replace(event, offset=9) for event in events)).duplicates == 4


@pytest.mark.parametrize(
    "stranger", [{"user": "nobody"}, {"tenant": "beta", "user": "nobody"}, {"tenant": "new"}]
)
def test_an_id_that_was_refused_for_one_is_open_to_all_others(world, stranger):
    refused = interaction(event_id="17", **stranger)
    assert world.take(world.interactions, refused).dead_letters == 1
    assert world.take(world.interactions, interaction("bob", "17", offset=1)).effects == 1
    assert world.take(world.interactions, interaction("ada", "17", tenant="beta", offset=2)).effects == 1


def test_two_users_of_a_tenant_that_is_not_registered_have_a_letter_each_and_two_effects_once_it_is(world):
    events = [interaction("ada", "17", tenant="new"), interaction("bob", "17", tenant="new", offset=1)]
    assert world.take(world.interactions, *events).dead_letters == 2
    with transaction(world.engine) as session:
        policies.register_tenant(session, "new", actor="ann", now=NOW)
    world.take(world.consents, *(consent(user, tenant="new") for user in ("ada", "bob")))
    replayed = [
        replace(
            event,
            headers=(*event.headers, ("discreet_replayed_from", f"{event.topic}/0/{event.offset}".encode())),
            offset=10 + event.offset,
        )
        for event in events
    ]
    assert world.take(world.interactions, *replayed).effects == 2
    assert world.take(world.interactions, *replayed).duplicates == 2


def test_one_consent_id_of_two_users_is_two_consents(engine):
    world = IngestWorld(engine)
    one, other = consent("ada"), consent("bob")
    same = next(header for header in one.headers if header[0] == "ce_id")
    other = replace(
        other, headers=tuple(same if name == "ce_id" else (name, value) for name, value in other.headers)
    )
    assert world.take(world.consents, one, other).effects == 2
    assert world.take(world.interactions, interaction("ada"), interaction("bob", offset=1)).effects == 2


def test_an_acknowledgement_counts_within_its_line(engine):

    world = IngestWorld(engine)
    acks = AckHandler(
        engine=engine, letters=DeadLetterSink(world.sender, "w"), clock=lambda: NOW, max_event_bytes=2048
    )
    one = ack("17")
    other = replace(
        one, key=b"000000000002", value=one.value.replace(b"000000000001", b"000000000002"), offset=1
    )
    assert world.take(acks, one, other, replace(other, offset=2)).effects == 2


def test_no_stored_identity_is_a_plain_hash_of_what_the_sender_wrote(world):
    world.take(world.interactions, interaction("ada", "17"))
    world.take(world.erasures, erasure("bob", request_id="17"))
    with transaction(world.engine) as session:
        stored = set(session.exec(select(ProcessedEventRow.event_digest)))
        stored |= set(session.exec(select(SignalRow.event_digest)))
    assert stored
    assert sender_digest("urn:test", "17") not in stored


class TestErasures:
    """A request is a person's own, whatever id anybody else used."""

    @pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
    def test_nobody_can_keep_another_from_being_erased_by_using_the_id_first(self, world, together):
        world.take(world.interactions, interaction("ada", "e1"), interaction("bob", "e2", offset=1))
        requests = [erasure("ada", request_id="r1"), erasure("bob", request_id="r1", offset=1)]
        for batch in [requests] if together else [[one] for one in requests]:
            taken = world.take(world.erasures, *batch)
            assert (taken.effects, taken.dead_letters) == (len(batch), 0)
        assert owners(world) == set()
        with transaction(world.engine) as session:
            rows = session.exec(select(ErasureRow)).all()
        assert {row.erasure_id for row in rows} == {"r1"}
        assert len({row.pseudonym for row in rows}) == 2
        assert [row.certificate["keys_destroyed"] for row in rows] == [1, 1]  # each its own, not the other's
        assert len({row.certificate["audit_digest"] for row in rows}) == 2

    def test_two_tenants_may_use_one_request_id(self, world):
        world.take(world.interactions, interaction(), interaction(tenant="beta", offset=1))
        both = erasure(request_id="1001"), erasure(request_id="1001", tenant="beta", offset=1)
        assert world.take(world.erasures, *both).effects == 2
        assert owners(world) == set()
        with transaction(world.engine) as session:
            certificates = [row.certificate["keys_destroyed"] for row in session.exec(select(ErasureRow))]
        assert certificates == [1, 1]

    def test_one_persons_repeated_request_from_another_source_is_answered_with_the_certificate_that_stands(
        self, world
    ):
        world.take(world.erasures, erasure(request_id="r1"))
        again = erasure(request_id="r1", offset=1, at=NOW + timedelta(hours=1))
        again = replace(
            again,
            headers=tuple(
                (name, b"urn:other" if name == "ce_source" else value) for name, value in again.headers
            ),
        )
        assert world.take(world.erasures, again).effects == 1
        with transaction(world.engine) as session:
            assert len(session.exec(select(ErasureRow)).all()) == 1
