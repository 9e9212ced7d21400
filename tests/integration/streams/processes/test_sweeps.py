"""Sweeps: what is past its time goes, in small transactions, by one worker at a time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event, text
from sqlmodel import select

from personalization.signals.rows import SignalRow, insert_signals
from personalization.signals.values import StoredSignal
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.ingest.fates import EFFECT, decide
from streams.ingest.tables import ProcessedEventRow
from streams.outbox.tables import OutboxRow
from streams.processes import sweeps
from streams.processes.sweeps import Sweeper
from streams.settings import OutboxSettings, SchedulerSettings
from tests.fakes.stream_records import NOW

TENANTS = [f"t{number}" for number in range(7)]  # no policy: of the default retention


@pytest.fixture
def fleet(engine, clock, monkeypatch):
    """A database with tenants, two pages of them and some, and a maker of sweepers."""
    clock.advance(seconds=(NOW - clock.now()).total_seconds())
    monkeypatch.setattr(sweeps, "TENANTS", 3)
    monkeypatch.setattr(sweeps, "ROWS", 10)
    with transaction(engine) as session:
        for name in TENANTS:
            policies.register_tenant(session, name, actor="ann", now=NOW)
        changes = {"declared_users": 90, "retention_days": 5, "domains": ["answers"]}
        policies.set_policy(session, "t4", changes, actor="ann", reason="r", now=NOW)

    def sweeper():
        settings = SchedulerSettings(retention_seconds=300), OutboxSettings()
        return Sweeper(engine, clock, *settings, check_time=lambda *_: None)

    return sweeper


def store(engine, tenant, domain, ages):
    with transaction(engine) as session:
        rows = [
            StoredSignal(
                f"{tenant} {domain} {n}".encode(),
                tenant,
                "p",
                domain,
                0,
                b"r",
                NOW - timedelta(days=age),
                b"s",
            )
            for n, age in enumerate(ages)
        ]
        insert_signals(session, rows)


def left(engine, column):
    with transaction(engine) as session:
        return sorted(session.exec(select(column)).all())


def test_each_tenants_own_retention_holds_in_every_domain_also_in_one_that_its_policy_no_longer_has(
    engine, fleet
):
    store(engine, "t0", "default", [400, 4])
    store(engine, "t4", "answers", [6, 4])
    store(engine, "t4", "dropped", [6, 4])
    store(engine, "t6", "default", [400, 4])
    assert fleet().sweep()
    kept = [b"t0 default 1", b"t4 answers 1", b"t4 dropped 1", b"t6 default 1"]
    assert left(engine, SignalRow.event_digest) == kept


def test_no_transaction_deletes_more_rows_than_it_may(engine, fleet):
    for tenant in TENANTS[:4]:
        store(engine, tenant, "default", [400] * 14)
    with transaction(engine) as session:
        decide(session, {bytes([n]): EFFECT for n in range(35)}, (), NOW - timedelta(days=99))
        for n in range(25):
            at = NOW - timedelta(days=30)
            session.add(
                OutboxRow(topic="t", key=b"k", headers=[], created_at=at, published_at=at, value=b"%d" % n)
            )
    deleted, most = 0, []

    def count(_connection, cursor, statement, *_):
        nonlocal deleted
        if statement.lstrip().startswith("DELETE"):
            deleted += cursor.rowcount

    def ended(_connection):
        nonlocal deleted
        most.append(deleted)
        deleted = 0

    event.listen(engine, "after_cursor_execute", count)
    event.listen(engine, "commit", ended)
    assert fleet().sweep()
    assert left(engine, SignalRow.event_digest) == []
    assert left(engine, OutboxRow.outbox_id) == []
    sqlite = engine.dialect.name == "sqlite"
    assert sum(most) == 56 + 25 + (35 if sqlite else 0)  # PostgreSQL deletes no fate by itself
    assert max(most) <= 10
    if sqlite:
        assert left(engine, ProcessedEventRow.event_digest) == []


def test_on_a_busy_database_a_transaction_deletes_fewer_rows_and_takes_no_second(engine, clock, monkeypatch):
    """Beside ingest a row may take a hundred times as long as on an idle database."""
    clock.advance(seconds=(NOW - clock.now()).total_seconds())
    with transaction(engine) as session:
        policies.register_tenant(session, "t0", actor="ann", now=NOW)
    at, left, took = [0.0], [5_000], []

    def delete(_session, _limits, *, most):
        found = min(most, left[0])
        a_row = 0.000_05 if left[0] > 2_000 else 0.002  # idle first, then busy
        took.append((found, 0.005 + found * a_row))
        left[0] -= found
        at[0] += took[-1][1]
        return found

    monkeypatch.setattr(sweeps, "delete_expired_signals", delete)
    settings = SchedulerSettings(retention_seconds=300), OutboxSettings()
    sweeper = Sweeper(engine, clock, *settings, check_time=lambda *_: None, monotonic=lambda: at[0])
    assert sweeper.sweep()
    assert left == [0]
    assert max(found for found, _ in took) == sweeps.ROWS  # where it can it uses the room
    slow = [seconds for found, seconds in took if found * 0.002 < seconds]
    assert sorted(slow)[-2] < 0.2  # one is surprised by the load, and those after it are short
    assert took[-2][0] >= sweeps.FEWEST_ROWS


def test_of_several_workers_one_sweeps_and_another_one_when_it_is_gone(engine, fleet, clock):
    first, second = fleet(), fleet()
    assert [first.sweep(), second.sweep()] == [True, False]
    store(engine, "t0", "default", [400])
    assert not second.sweep()
    assert left(engine, SignalRow.event_digest) == [b"t0 default 0"]
    clock.advance(seconds=300)
    assert [second.sweep(), first.sweep()] == [True, False]
    assert left(engine, SignalRow.event_digest) == []


def test_who_loses_the_lease_while_sweeping_stops(engine, fleet, monkeypatch):
    """A worker that was stopped for long finds that another one went on."""
    store(engine, "t0", "default", [400])
    store(engine, "t6", "default", [400])
    slow, other = fleet(), fleet()
    original, calls = sweeps.delete_expired_signals, []

    def halted(session, limits, *, most):
        found = original(session, limits, most=most)
        calls.append(found)
        if len(calls) == 1:
            session.execute(text("UPDATE chore_leases SET owner = :owner"), {"owner": other._owner})
        return found

    monkeypatch.setattr(sweeps, "delete_expired_signals", halted)
    assert not slow.sweep()
    assert calls == [1]
    assert left(engine, SignalRow.event_digest) == [b"t6 default 0"]
