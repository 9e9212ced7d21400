"""A crash after the draw makes nothing depend on the data again: the answer is the same whoever left meanwhile."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import select

from personalization.artifacts.candidates import Candidates
from personalization.planning.plan import PerformanceFlags
from personalization.registry.tables import AdapterVersionRow
from personalization.releases.overdue import forfeit_overdue
from personalization.rounds.states import OutcomeCode, RoundState
from personalization.rounds.tables import RoundRow, SealedSnapshotRow
from personalization.signals.rows import delete_user_signals, insert_signals
from personalization.signals.snapshot import StoredSignals
from personalization.signals.values import OutcomeKind, Signal, StoredSignal, row_of
from personalization.training.base.device import resolved
from privacy.consent import statements as consents
from privacy.consent.admission import Consent
from privacy.erasure.erase import erase
from privacy.keys.keyring import Plaintext
from privacy.ledger import ReservationState
from privacy.ledger.tables import LedgerEntryRow, ReservationRow
from privacy.policy.values import DataPurpose
from privacy.storage.session import open_engine
from privacy.storage.subjects import Subject
from streams.outbox.tables import OutboxRow
from streams.storage import schema
from tests.fakes.keys import BACKUPS, keyring_of
from tests.fakes.training import Workshop, outbox_events

USERS = 40


class KilledError(BaseException):
    """The process ends here: nothing catches this."""


def subject(number):
    return Subject("acme", hashlib.sha256(str(number).encode()).hexdigest())


def say(session, keyring, number, now, *, granted=True):
    agreed = Consent(granted=granted, notice_version="1", occurred_at=now)
    statement = consents.ConsentStatement(
        subject=subject(number), purpose=DataPurpose.TRAINING.value, consent=agreed
    )
    consents.record(session, [statement], now=now)
    if not granted:
        return
    plain = Signal(prompt="p", completion=f"c{number}", outcome=OutcomeKind.ACCEPTED).to_bytes()
    digest = hashlib.sha256(f"event {number}".encode()).digest()
    row = row_of(digest, "default", 0, digest[:16], now - timedelta(hours=1))
    (ciphertext,) = keyring.encrypt_many(session, [Plaintext(*subject(number), row, plain)], now=now)
    signal = StoredSignal(
        event_digest=digest, tenant_id="acme", pseudonym=subject(number).pseudonym, domain="default",
        period_index=0, rank=digest[:16], occurred_at=now - timedelta(hours=1), ciphertext=ciphertext,
    )  # fmt: skip
    insert_signals(session, [signal])


def nothing(_session, _keyring, _now):
    pass


def a_user_withdraws(session, keyring, now):
    say(session, keyring, 3, now + timedelta(seconds=1), granted=False)


def a_user_is_erased(session, keyring, now):
    erase(
        session, subject(3), erasure_id="e", requested_at=now, actor="test", now=now,
        delete_signals=delete_user_signals, store=keyring.store, backups=BACKUPS,
    )  # fmt: skip


def a_user_joins(session, keyring, now):
    say(session, keyring, USERS + 1, now)


def everybody_leaves(session, _keyring, _now):
    for number in range(USERS):
        delete_user_signals(session, *subject(number))


@pytest.fixture
def frozen(monkeypatch):
    """Make everything that is drawn at random the same in every run of a test's scenario."""

    def freeze(start=0):
        count = iter(range(start, 10**9))
        monkeypatch.setattr(
            "secrets.token_bytes", lambda size=32: hashlib.shake_128(str(next(count)).encode()).digest(size)
        )
        monkeypatch.setattr("secrets.token_hex", lambda size=32: f"{next(count):0{2 * size}x}")
        monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=next(count)))

    return freeze


def outcome(engine, clock, folder, change):
    """Let a trainer die after the draw, change something, repeat; return everything that came of the round."""
    shop = Workshop(engine, clock, folder, events=outbox_events())
    shop.signer = type(shop.signer)(bytes(32))
    shop.keyring = keyring_of(shop.engine, bytes(32))
    shop.signals = StoredSignals(shop.keyring)
    shop.add_tenant(minimum_cohort=10)
    with shop.session() as session:
        for number in range(USERS):
            say(session, shop.keyring, number, clock.now())
    round_id = shop.open_round()

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        shop.process("first").run_once()
    shop.trainer.during = lambda _should_stop: None
    clock.advance(seconds=61)
    with shop.session() as session:
        change(session, shop.keyring, clock.now())
    return shop, round_id


CHANGES = [nothing, a_user_withdraws, a_user_is_erased, a_user_joins, everybody_leaves]


@pytest.mark.parametrize("change", CHANGES[1:], ids=lambda change: change.__name__)
def test_the_answer_of_a_repeat_is_the_same_whoever_left(engine, clock, tmp_path, frozen, change):
    answers = []
    began = clock.now()
    for number, one in enumerate((nothing, change)):
        clock._now = began
        frozen()
        database = engine if number == 0 else _fresh(tmp_path)
        shop, round_id = outcome(database, clock, tmp_path / "shop", one)
        frozen(10**6)  # what the change drew must not be seen in what comes after it
        shop.process("second").run_once()
        with shop.session() as session:
            row = session.get(RoundRow, round_id)
            versions = [
                (one.version_id, one.manifest_json) for one in session.exec(select(AdapterVersionRow))
            ]
            entries = [
                (entry.kind, entry.document)
                for entry in session.exec(select(LedgerEntryRow).order_by(LedgerEntryRow.sequence))
            ]
            told = [
                (one.topic, one.key, one.value, one.headers)
                for one in session.exec(select(OutboxRow))
                if "adapter" in one.topic
            ]
        assert row.outcome_code == OutcomeCode.PUBLISHED
        shutil.rmtree(tmp_path / "shop")
        answers.append((row.noisy_cohort, row.outcome, versions, entries, told, shop.trainer.keys))
    assert answers[0] == answers[1]


def _fresh(folder):
    """Return an empty database beside the one of the test."""
    url = f"sqlite:///{folder / 'second.db'}"
    schema.upgrade(url)
    return open_engine(url)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    return shop


def state(shop, round_id):
    with shop.session() as session:
        row = session.get(RoundRow, round_id)
        reservations = session.exec(select(ReservationRow)).all()
        return row, reservations, session.exec(select(SealedSnapshotRow)).all()


def test_a_round_past_its_slot_forfeits_and_its_seal_is_destroyed(shop):
    round_id = shop.open_round()

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        shop.process().run_once()
    row, _, seals = state(shop, round_id)
    assert seals
    with shop.session() as session:
        assert forfeit_overdue(session, shop.ledger, shop.events, now=shop.clock.now()) == ()
    shop.clock._now = row.slot_ends_at
    with shop.session() as session:
        assert forfeit_overdue(session, shop.ledger, shop.events, now=shop.clock.now()) == (round_id,)

    row, (reservation,), seals = state(shop, round_id)
    assert seals == []
    assert row.wrapped_seed is None
    assert (row.state, row.outcome_code) == (RoundState.FAILED, OutcomeCode.FORFEITED)
    assert reservation.state == ReservationState.FORFEITED
    (event,) = shop.events.committed
    assert event.occurred_at <= row.slot_ends_at


def test_a_trainer_that_is_done_after_the_slot_publishes_nothing(shop):
    round_id = shop.open_round()

    def dawdle(_should_stop):
        row, *_ = state(shop, round_id)
        shop.clock._now = row.slot_ends_at

    shop.trainer.during = dawdle
    shop.process(lease=timedelta(days=3)).run_once()
    row, (reservation,), seals = state(shop, round_id)
    assert (row.state, seals) == (RoundState.FAILED, [])
    assert reservation.state == ReservationState.FORFEITED


def test_a_round_that_never_started_gives_its_budget_back_when_its_slot_is_over(shop):
    round_id = shop.open_round()
    protocol = shop.protocol()

    def die(_lease):
        raise KilledError

    protocol._start = die
    with pytest.raises(KilledError):
        shop.process(protocol=protocol).run_once()
    row, *_ = state(shop, round_id)
    with shop.session() as session:
        forfeit_overdue(session, shop.ledger, shop.events, now=row.slot_ends_at)
    assert state(shop, round_id)[1][0].state == ReservationState.RELEASED


def test_a_stored_result_is_published_and_not_trained_again(shop, monkeypatch):
    """A death between storing and publishing: x + z is there already, x' + z must never be made."""
    round_id = shop.open_round()
    protocol = shop.protocol()

    def die(*_arguments):
        raise KilledError

    monkeypatch.setattr(protocol, "finish", die)
    with pytest.raises(KilledError):
        shop.process("first", protocol=protocol).run_once()
    reservation_id = state(shop, round_id)[0].reservation_id
    kept = Candidates(shop.artifacts.root).find(reservation_id)
    weights = (kept.adapter / "adapter_model.safetensors").read_bytes()
    shop.trainer.values = 0.5  # another machine would give something else
    shop.clock.advance(seconds=61)
    shop.process("second").run_once()

    assert shop.trainer.jobs == [1]
    row, *_ = state(shop, round_id)
    published = shop.artifacts.open(row.version_id)
    assert (published / "adapter_model.safetensors").read_bytes() == weights
    assert Candidates(shop.artifacts.root).find(reservation_id) is None


def test_the_first_result_of_a_reservation_is_the_only_one(tmp_path):
    store = Candidates(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_text(name)
    first = store.keep("r", tmp_path / "one", b"1")
    second = store.keep("r", tmp_path / "two", b"2")
    assert second == first
    assert (second.adapter / "adapter_model.safetensors").read_text() == "one"
    assert second.notes == b"1"


@pytest.mark.parametrize(
    "changed",
    [
        {"flags": PerformanceFlags(half_products=True)},
        {"flags": PerformanceFlags(tokens_per_microbatch=64)},
        {"flags": PerformanceFlags(threads=3)},
        {"flags": PerformanceFlags(device="cuda")},
        {"hardware": "cuda: another"},
    ],
    ids=str,
)
def test_a_repeat_under_other_flags_or_hardware_forfeits(shop, changed):
    round_id = shop.open_round()

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        shop.process("first").run_once()
    shop.trainer.during = lambda _should_stop: None
    shop.clock.advance(seconds=61)
    other = shop.protocol(**changed)
    shop.process("second", protocol=other).run_once()
    row, (reservation,), seals = state(shop, round_id)
    assert (row.state, row.outcome_code, seals) == (RoundState.FAILED, OutcomeCode.FORFEITED, [])
    assert reservation.state == ReservationState.FORFEITED
    assert shop.trainer.keys == []


def test_auto_is_settled_before_a_run(monkeypatch):
    monkeypatch.setattr("personalization.training.base.device._may_have_gpu", lambda: True)
    flags = PerformanceFlags()
    on_gpu, gpu = resolved(flags, lambda: "H200 9.0")
    on_processor, processor = resolved(flags, lambda: None)
    assert (on_gpu.device, gpu) == ("cuda", "cuda: H200 9.0")
    assert on_processor.device == "cpu"
    assert processor.startswith("cpu: ")
    assert on_processor.threads is not None
    assert resolved(replace(flags, device="cpu", threads=2), lambda: "H200")[0].threads == 2
