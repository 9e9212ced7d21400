"""Interactions to signals on both databases: admitted, bounded, sealed, deduplicated, or refused with a letter."""

import json
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import select

from personalization.signals.rows import SignalRow
from personalization.signals.snapshot import StoredSignals
from privacy.errors import StorageError
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.client import SignatureInvalidError
from streams.client.signatures import TrustedKeys
from streams.contracts.consent import ConsentPurpose
from streams.contracts.erasure import ErasureCompletedV1
from streams.contracts.interaction import Edited, Rating, Rejected
from streams.errors import BrokerUnavailableError
from streams.ingest.tables import ProcessedEventRow
from streams.ingest.work import Work
from streams.outbox.tables import OutboxRow
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, FakeRecord, consent, erasure, interaction


@pytest.fixture
def world(engine):
    return IngestWorld(engine)


def test_a_consented_interaction_becomes_one_redacted_sealed_signal(world):
    world.take(world.consents, consent("zoe"))  # a pseudonym is hexadecimal and cannot spell it by chance
    outcome = world.take(world.interactions, interaction("zoe", prompt="my secret word"))
    assert (outcome.effects, outcome.dead_letters) == (1, 0)
    with transaction(world.engine) as session:
        row = session.exec(select(SignalRow)).one()
    assert b"word" not in row.ciphertext
    assert "zoe" not in f"{row.pseudonym}{row.tenant_id}"
    (user,) = world.users()
    assert user.examples[0].prompt == "my [secret] word"


def test_the_same_event_has_one_effect_within_a_batch_and_across_batches(world):
    world.take(world.consents, consent())
    outcome = world.take(world.interactions, interaction(), interaction(offset=1))
    assert (outcome.effects, outcome.duplicates) == (1, 1)
    again = world.take(world.interactions, interaction(offset=2))
    assert (again.effects, again.duplicates) == (0, 1)
    assert world.count(SignalRow) == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_and_keeps_the_same_signals_in_any_order_and_batching(engine, seed):
    world = IngestWorld(engine)
    world.take(world.consents, consent())
    events = [interaction(event_id=f"e{number}", offset=number) for number in range(12)]
    world.take(world.interactions, *events)
    with transaction(engine) as session:
        kept = set(session.exec(select(SignalRow.event_digest)))
        for row_type in (SignalRow, ProcessedEventRow):
            for row in session.exec(select(row_type)):
                session.delete(row)
    shuffled = random.Random(seed).sample(events, len(events))
    for start in range(0, 12, 5):
        world.take(world.interactions, *shuffled[start : start + 5])
    with transaction(engine) as session:
        assert set(session.exec(select(SignalRow.event_digest))) == kept
    assert len(kept) == 3


@pytest.mark.parametrize("batches", [(4,), (3, 1), (2, 2), (1, 1, 1, 1)])
def test_one_event_more_than_the_bound_takes_the_place_of_another(world, batches):
    world.take(world.consents, consent())
    events = iter([interaction(event_id=f"e{number}", offset=number) for number in range(4)])
    for size in batches:
        world.take(world.interactions, *(next(events) for _ in range(size)))
    assert world.count(SignalRow) == 3


def test_an_interaction_waits_for_its_consent_and_is_refused_when_the_wait_is_over(world):
    waiting = world.take(world.interactions, interaction(), final=False)
    assert (len(waiting.held), waiting.dead_letters) == (1, 0)
    assert world.sender.sent == []
    over = world.take(world.interactions, interaction())
    assert over.dead_letters == 1
    assert world.sender.reasons == ["consent_missing"]
    world.take(world.consents, consent())
    copy = interaction(offset=77)
    assert world.take(world.interactions, copy).duplicates == 1  # one event, one fate
    refused_at = ("discreet_replayed_from", b"discreet.interactions.v1/0/0")
    replayed = replace(copy, headers=(*copy.headers, refused_at), offset=78)
    assert world.take(world.interactions, replayed).effects == 1
    assert world.take(world.interactions, replace(replayed, offset=79)).duplicates == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (FakeRecord(b"not json", b"acme/ada"), "envelope_invalid"),
        (FakeRecord(None, b"acme/ada"), "empty"),
        (FakeRecord(b"x" * 2049, b"acme/ada"), "oversized"),
        (interaction(tenant="nobody"), "tenant_unknown"),
        (interaction(domain="elsewhere"), "schema_violation"),
        (interaction(at=NOW + timedelta(hours=1)), "in_the_future"),
        (interaction(at=NOW - timedelta(days=400)), "too_late"),
        (interaction(user="nobody"), "consent_missing"),
        (interaction(user="gone"), "consent_withdrawn"),
        (interaction(user="other"), "purpose_not_allowed"),
    ],
)
def test_what_cannot_be_accepted_is_refused_beside_what_can(world, record, reason):
    world.take(
        world.consents,
        consent(),
        consent("gone", granted=False, offset=1),
        consent("other", purpose=ConsentPurpose.EVALUATION, offset=2),
    )
    outcome = world.take(world.interactions, record, interaction(event_id="good"))
    assert (outcome.effects, outcome.dead_letters) == (1, 1)
    assert world.sender.reasons == [reason]
    letter = world.sender.sent[0]
    assert (letter.key, letter.value) == (record.key, record.value)
    assert set(record.headers) <= set(letter.headers)


def test_a_batch_is_not_done_before_its_letters_are_confirmed_and_then_does_nothing_twice(world):
    world.take(world.consents, consent())
    batch = interaction(), interaction(user="nobody", event_id="e2", offset=1), FakeRecord(b"?", offset=2)
    world.sender.away = True
    with pytest.raises(BrokerUnavailableError):
        world.take(world.interactions, *batch)
    world.sender.away = False
    again = world.take(world.interactions, *batch)
    assert (again.effects, again.dead_letters) == (0, 2)
    assert sorted(world.sender.reasons) == ["consent_missing", "envelope_invalid"]
    assert world.count(SignalRow) == 1


def test_an_event_that_was_refused_here_has_no_effect_here_whatever_is_known_by_now(world):
    """A worker that comes back from a long pause and its successor agree on the fate of a record."""
    world.take(world.interactions, interaction())
    world.take(world.consents, consent())
    late = world.take(world.interactions, interaction())
    assert (late.effects, late.dead_letters) == (0, 1)
    assert world.sender.reasons == ["consent_missing", "consent_missing"]  # one letter, twice: same origin
    assert {dict(letter.headers)["discreet_dlq_offset"] for letter in world.sender.sent} == {b"0"}
    assert world.count(SignalRow) == 0


def test_an_event_that_had_its_effect_is_never_refused_afterwards(world):
    world.take(world.consents, consent())
    world.take(world.interactions, interaction())
    world.take(world.consents, consent(granted=False, at=NOW + timedelta(seconds=1), offset=1))
    again = world.take(world.interactions, interaction())
    copy = Work(interaction(), 0.0)
    world.interactions.process([copy])
    world.interactions.refuse(copy, RuntimeError())
    assert (again.duplicates, again.dead_letters) == (1, 0)
    assert world.sender.sent == []


def test_a_letter_says_how_often_the_record_was_tried(world):
    held = Work(interaction(), 0.0)
    unreadable = Work(replace(interaction(event_id="e2", offset=1), value=b"{"), 0.0)
    for _ in range(2):
        assert world.interactions.process([held]).held == [held]  # waits for its consent
    held.final = True
    world.sender.away = True
    with pytest.raises(BrokerUnavailableError):
        world.interactions.process([held, unreadable])
    world.sender.away = False
    world.interactions.process([held, unreadable])
    world.interactions.refuse(unreadable, RuntimeError())
    world.take(
        world.interactions, interaction()
    )  # after a crash: the attempt that left the mark, and this one
    attempts = [dict(record.headers)["discreet_dlq_attempts"] for record in world.sender.sent]
    assert attempts == [b"2", b"4", b"2", b"2"]


def test_a_failing_commit_leaves_nothing(world, monkeypatch):
    world.take(world.consents, consent())

    def fail(*_args, **_kwargs):
        raise StorageError("the database is away")

    monkeypatch.setattr("streams.ingest.handler.decide", fail)
    with pytest.raises(StorageError):
        world.take(world.interactions, interaction())
    assert world.count(SignalRow) == 0


def test_a_tenant_without_a_policy_is_ingested_and_never_trained(world):
    with transaction(world.engine) as session:
        policies.register_tenant(session, "plain", actor="ann", now=NOW)
    world.take(world.consents, consent(tenant="plain"))
    outcome = world.take(world.interactions, interaction(tenant="plain", domain="anything"))
    assert outcome.effects == 1


def test_a_withdrawal_takes_the_user_out_of_training_at_once(world):
    world.take(world.consents, consent())
    world.take(world.interactions, interaction())
    assert len(world.users()) == 1
    world.take(world.consents, consent(granted=False, at=NOW + timedelta(seconds=1), offset=1))
    assert world.users() == ()


def test_an_erased_user_leaves_no_signal_and_is_refused_from_then_on(world):
    world.take(world.consents, consent(), consent("bob", offset=1))
    world.take(world.interactions, interaction(), interaction("bob", "e2"))
    assert world.take(world.erasures, erasure(), erasure(offset=1)).effects == 1
    assert world.count(SignalRow) == 1
    world.take(world.interactions, interaction(event_id="later"))
    world.take(world.consents, consent(at=NOW + timedelta(seconds=1), offset=2))
    assert world.sender.reasons == ["user_erased", "user_erased"]
    with transaction(world.engine) as session:
        rows = session.exec(select(OutboxRow).order_by(OutboxRow.outbox_id)).all()
    answer, *tombstones = rows
    assert answer.key == b"acme/ada"
    assert json.loads(answer.value)["certificate"]["signals_erased"] is None
    certificate = ErasureCompletedV1.model_validate_json(answer.value).certificate
    TrustedKeys([world.signer.public_key]).check_certificate(certificate)
    for changed in ({"signals_erased": 2}, {"key_id": None}, {"signature": "AAAA"}, {"key_id": "another"}):
        with pytest.raises(SignatureInvalidError):
            TrustedKeys([world.signer.public_key]).check_certificate(certificate.model_copy(update=changed))
    assert {row.key for row in tombstones} == {f"acme/ada/{purpose}".encode() for purpose in ConsentPurpose}
    assert all(row.value is None for row in tombstones)


def test_an_erasure_request_with_the_longest_allowed_id_is_carried_out(world):
    outcome = world.take(world.erasures, erasure(request_id="r" * 128))
    assert (outcome.effects, outcome.dead_letters) == (1, 0)


def test_training_takes_at_most_the_bound_of_each_user_over_all_periods(world):
    world.take(world.consents, consent(), consent("bob", offset=1))
    days = [interaction(event_id=f"d{day}", at=NOW - timedelta(days=20 * day)) for day in range(5)]
    world.take(world.interactions, *days, interaction("bob", "b1"))
    assert world.count(SignalRow) == 6
    assert sorted(len(user.examples) for user in world.users()) == [1, 3]


def test_what_the_user_did_decides_what_training_learns(world):
    world.take(world.consents, consent())
    world.take(
        world.interactions,
        interaction(event_id="e1", outcome=Edited(final_text="hello")),
        interaction(event_id="e2", outcome=Rejected()),
        interaction(event_id="e3", outcome=Rating(rating=5)),
    )
    (user,) = world.users()
    assert {(example.kind.value, example.completion, example.shown) for example in user.examples} == {
        ("preference", "hello", "hi"),
        ("sft", "hi", None),
    }


NOTHING = (Rejected(), Rating(rating=1), Rating(rating=3), Edited(final_text=""))


def test_what_teaches_nothing_is_accepted_and_neither_stored_nor_counted(world):
    world.take(world.consents, consent(), consent("bob", offset=1))
    silent = [interaction("bob", f"b{n}", outcome=outcome, offset=n) for n, outcome in enumerate(NOTHING)]
    outcome = world.take(world.interactions, *silent, interaction(offset=9))
    assert (outcome.effects, outcome.dead_letters) == (5, 0)
    assert world.take(world.interactions, *silent).duplicates == 4
    assert world.count(SignalRow) == 1
    assert len(world.users()) == 1


def test_signals_that_ingest_kept_once_and_that_teach_nothing_take_no_place_in_a_release(world, monkeypatch):
    monkeypatch.setattr("personalization.signals.keep.teaches", lambda _turn: True)
    world.take(world.consents, consent(), consent("bob", offset=1))
    early = [interaction(event_id=f"r{n}", outcome=Rejected(), at=NOW - timedelta(days=40)) for n in range(3)]
    later = [interaction(event_id=f"a{n}", offset=9 + n) for n in range(3)]
    world.take(world.interactions, *early, *later, interaction("bob", "b", outcome=Rejected(), offset=20))
    assert world.count(SignalRow) == 7
    assert [[example.kind.value for example in user.examples] for user in world.users()] == [["sft"] * 3]


def test_a_digest_depends_on_the_data_and_on_the_rounds_own_key(world):
    source = StoredSignals(world.keyring)

    def digest(key=bytes(32)):
        with transaction(world.engine) as session:
            return source.load(
                session,
                "acme",
                "default",
                now=NOW,
                retention=timedelta(days=90),
                contribution_bound=3,
                digest_key=key,
            ).data_digest

    empty = digest()
    world.take(world.consents, consent())
    world.take(world.interactions, interaction())
    one = digest()
    assert one == digest()
    assert one != empty
    # Two releases of the same data cannot be told to be of the same data.
    assert one != digest(bytes(31) + b"x")


def test_a_letter_too_large_for_its_topic_keeps_all_but_the_value(world):
    record = FakeRecord(b"x" * 1_048_000, b"acme/ada", (("ce_id", b"1"),))
    assert world.take(world.interactions, record).dead_letters == 1
    (letter,) = world.sender.sent
    assert (letter.key, letter.value) == (b"acme/ada", None)
    assert b"1048000 bytes" in dict(letter.headers)["discreet_dlq_detail"]
