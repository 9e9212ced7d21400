"""What the clock does: rounds open once, expired signals and old bookkeeping go, failures are reported once."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import func, select

from personalization.rounds.tables import RoundRow
from personalization.signals.rows import SignalRow, insert_signals
from personalization.signals.values import StoredSignal
from privacy.errors import StorageError
from privacy.ledger import Ledger
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.errors import ClockError
from streams.ingest.fates import EFFECT, decide
from streams.ingest.tables import ProcessedEventRow
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.relay import OutboxRelay
from streams.processes import chores as scheduler
from streams.processes.chores import Chores
from streams.settings import OutboxSettings, SchedulerSettings
from streams.telemetry.metrics import WorkerMetrics
from tests.fakes.keys import keyring_of
from tests.fakes.stream_records import NOW, FakeSender


@pytest.fixture
def chores(engine):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        changes = {
            "declared_users": 90,
            "retention_days": 10,
            "schedule.first_at": NOW - timedelta(days=1),
            "schedule.every_seconds": 86_400 * 30,
        }
        policies.set_policy(session, "acme", changes, actor="ann", reason="r", now=NOW)
    return Chores(
        engine=engine,
        relay=OutboxRelay(engine, FakeSender(), batch_rows=10),
        keyring=keyring_of(engine),
        clock=lambda: NOW,
        scheduler=SchedulerSettings(),
        outbox=OutboxSettings(),
        metrics=WorkerMetrics(),
        ledger=Ledger(lambda: NOW),
        events=OutboxAdapterEvents(),
        check_time=lambda *_: None,  # the tests' time is not the database's
    )


def count(engine, row_type):
    with transaction(engine) as session:
        return session.exec(select(func.count()).select_from(row_type)).one()


def test_a_due_round_is_opened_once_however_often_the_clock_ticks(engine, chores):
    for _ in range(3):
        chores.open_rounds()
    assert count(engine, RoundRow) == 1


def test_the_sweep_deletes_what_is_past_its_time_and_nothing_else(engine, chores):
    with transaction(engine) as session:
        ages = {b"old": 11, b"young": 9}
        signals = [
            StoredSignal(name, "acme", "p", "default", 0, name, NOW - timedelta(days=days), b"sealed")
            for name, days in ages.items()
        ]
        insert_signals(session, signals)
        decide(session, {b"old": EFFECT}, (), NOW - timedelta(days=31))
        decide(session, {b"young": EFFECT}, (), NOW)
    chores.sweep()
    with transaction(engine) as session:
        assert session.exec(select(SignalRow.event_digest)).all() == [b"young"]
        fates = set(session.exec(select(ProcessedEventRow.event_digest)))
    # On PostgreSQL a fate goes with all others of its slot (``streams.ingest.slots``).
    assert fates == ({b"young"} if engine.dialect.name == "sqlite" else {b"young", b"old"})


def test_a_failing_chore_is_tried_again_and_reported_once(monkeypatch):
    attempts, reported, failures = [], [], []
    monkeypatch.setattr(scheduler.log, "warning", lambda event, **_: reported.append(event))
    monkeypatch.setattr(scheduler.log, "info", lambda event, **_: reported.append(event))

    def chore():
        attempts.append(1)
        if len(attempts) <= 5:
            raise StorageError("the database is away")

    async def main():
        task = asyncio.create_task(scheduler._repeat("test", chore, 0.001, failures.append))
        while len(attempts) < 8:
            await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(main())
    assert reported == ["chore_failed", "chore_works_again"]
    assert failures == ["test"] * 5


def test_a_wrong_clock_neither_deletes_nor_opens_rounds(engine, chores):
    if engine.dialect.name == "sqlite":
        with transaction(engine) as session:
            scheduler.require_right_time(session, NOW)  # there is no other clock to ask
        return
    chores._check_time = chores._sweeper._check_time = scheduler.require_right_time
    with transaction(engine) as session:
        signal = StoredSignal(b"old", "acme", "p", "default", 0, b"r", NOW - timedelta(days=99), b"sealed")
        insert_signals(session, [signal])
        decide(session, {b"old": EFFECT}, (), NOW - timedelta(days=99))
    for chore in (chores.sweep, chores.open_rounds):
        with pytest.raises(ClockError, match="apart"):
            chore()
    assert (count(engine, SignalRow), count(engine, ProcessedEventRow), count(engine, RoundRow)) == (1, 1, 0)
    right = datetime.now(UTC) + timedelta(minutes=4)
    with transaction(engine) as session:
        scheduler.require_right_time(session, right)
