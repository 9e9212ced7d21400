"""No query of ingest, the clock's tick, the relay or the sweep goes through a table without an index.

Every statement that they send is noted with its parameters and explained. The tables are small here, and PostgreSQL
would rightly read them whole: it is told to join row by row and to avoid sequential scans, so that a plan with one says
that no index serves. What it does of itself with large tables is measured (``tests/benchmarks/fleet.py``).
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from personalization.rounds import queries as rounds
from personalization.signals.rows import insert_signals
from personalization.signals.values import StoredSignal
from privacy.ledger import Ledger
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.ingest.acks import AckHandler
from streams.ingest.letters import DeadLetterSink
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.relay import OutboxRelay
from streams.processes.chores import Chores
from streams.settings import OutboxSettings, SchedulerSettings
from streams.telemetry.metrics import WorkerMetrics
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.query_plans import noted_statements, without_index
from tests.fakes.stream_records import NOW, FakeSender, ack, consent, erasure, interaction

ROW_BY_ROW = ["enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off"]


@pytest.fixture
def world(engine):
    return IngestWorld(engine, tenants=("acme", "globex"), policy={"retention_days": 10})


def ingest(world):
    shared = {"engine": world.engine, "letters": DeadLetterSink(world.sender, "w"), "clock": lambda: NOW}
    acks = AckHandler(**shared, max_event_bytes=2048)
    users = [f"u{number}" for number in range(20)]
    world.take(world.consents, *(consent(user, offset=n) for n, user in enumerate(users)))
    for n in range(3):  # the second time they are over their bound
        records = [
            interaction(user, f"e{n}-{part}", offset=n * 100 + k * 4 + part)
            for k, user in enumerate(users)
            for part in range(3)
        ]
        world.take(world.interactions, *records, interaction("nobody", f"x{n}", offset=n))
    world.take(world.interactions, interaction("u1", "e0-0", offset=999))
    world.take(world.erasures, erasure("u3"), erasure("u4", request_id="r2", offset=1))
    world.take(world.consents, consent("u3", offset=50))
    world.take(acks, ack())


def clock(world):
    engine = world.engine
    with transaction(engine) as session:
        changes = {"schedule.first_at": NOW - timedelta(days=1), "schedule.every_seconds": 86_400 * 30}
        policies.set_policy(session, "acme", changes, actor="ann", reason="r", now=NOW)
        old = StoredSignal(b"old", "acme", "p", "default", 0, b"r", NOW - timedelta(days=99), b"s")
        insert_signals(session, [old])
    chores = Chores(
        engine=engine,
        relay=OutboxRelay(engine, FakeSender(), batch_rows=10),
        keyring=world.keyring,
        clock=lambda: NOW,
        scheduler=SchedulerSettings(),
        outbox=OutboxSettings(),
        metrics=WorkerMetrics(),
        ledger=Ledger(lambda: NOW),
        events=OutboxAdapterEvents(),
        check_time=lambda *_: None,
    )
    chores.open_rounds()
    chores.relay_outbox()
    chores.sweep()
    with transaction(engine) as session:
        assert rounds.lease_round(session, "trainer", NOW, timedelta(seconds=60)) is not None


def test_every_statement_has_an_index(world):
    store = world.keyring.store.engine
    with noted_statements(world.engine) as noted, noted_statements(store) as of_keys:
        ingest(world)
        clock(world)
    assert len(noted) > 50
    assert len(of_keys) > 3
    found = {
        statement: scans
        for engine, statements in ((world.engine, noted), (store, of_keys))
        for statement, parameters in statements.items()
        if (scans := without_index(engine, statement, parameters, settings=ROW_BY_ROW))
    }
    assert found == {}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM consents WHERE notice_version = 'v1'",
        "SELECT count(*) FROM subject_keys",
        "SELECT * FROM outbox WHERE created_at IS NULL",
    ],
)
def test_one_without_is_found(engine, statement):
    assert without_index(engine, statement, (), settings=ROW_BY_ROW)
