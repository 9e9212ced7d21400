"""Two workers and two trainers over one database: each round is opened once, trained once and announced once.

Real processes on the embedded broker, and PostgreSQL where there is one. The trainer that takes the first lease is
killed while it holds it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from opentelemetry import trace
from sqlmodel import func, select

from personalization.registry.tables import AdapterVersionRow
from personalization.rounds.tables import RoundRow
from personalization.signals.rows import SignalRow
from privacy.keys.service import new_master_key
from privacy.ledger import Ledger, ReservationState
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.broker import topics
from streams.broker.embedded import EmbeddedBroker
from streams.client import Accepted, ConsentPublisher, InteractionPublisher, InteractionV1
from streams.contracts.codec import Decoded, decode_adapter_event
from streams.contracts.topics import ADAPTER_EVENTS, ADAPTER_PUBLISHED
from streams.telemetry.tracing import round_context
from tests.fakes.keys import prepared_store_url
from tests.fakes.tiny_models import write_tiny_base

ROOT = Path(__file__).resolve().parents[4]
TENANTS = ("acme", "globex", "initech")
USERS = 12
PARTITIONS = 2
DEADLINE_SECONDS = 400
LAST_LINES = 60
DIALECT = "postgresql" if os.environ.get("DISCREET_TEST_POSTGRES") else "sqlite"
CLOSED = {"done", "failed", "declined"}


def wait_until(done, processes, expected_to_end=()):
    end = time.monotonic() + DEADLINE_SECONDS
    while not done():
        assert time.monotonic() < end, "\n".join(["it takes too long", *map(last_words, processes)])
        for process in processes:
            assert process in expected_to_end or process.poll() is None, last_words(process)
        time.sleep(0.1)


def last_words(process):
    """What a process said last, so that a failure says why."""
    lines = process.log.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join([f"--- {process.log.stem}, exit status {process.poll()}:", *lines])


def end(processes):
    """Ask processes to end, and wait until they have done so in order."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(180) == 0, last_words(process)


@pytest.fixture
def start(tmp_path, database_url):
    """Start a command in a process; all are ended afterwards."""
    started = []
    with EmbeddedBroker() as broker:
        with topics.open_admin({"bootstrap_servers": broker.bootstrap}) as admin:
            topics.create_topics(admin, partitions=PARTITIONS)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")}
        environment = {
            **kept,
            "OMP_NUM_THREADS": "1",
            "DISCREET_STATE": str(tmp_path / "state"),
            "DISCREET_MASTER_KEY": new_master_key(),
            "DISCREET_DATABASE__URL": database_url,
            "DISCREET_KEYS__URL": prepared_store_url(database_url),
            "DISCREET_BROKER__BOOTSTRAP": broker.bootstrap,
            "DISCREET_BROKER__EMBEDDED": "true",
            "DISCREET_HTTP__PORT": "0",
            "DISCREET_TRAINER__BASE_MODEL": str(write_tiny_base(tmp_path / "base")),
            "DISCREET_TRAINER__LEASE_SECONDS": "5",
            "DISCREET_TRAINER__POLL_SECONDS": "0.2",
            "DISCREET_TRAINER__THREADS": "1",
            "DISCREET_CEILINGS__PERIOD_EPSILON": "16",
            "DISCREET_CEILINGS__MINIMUM_COHORT": "1",
        }

        def run(command):
            path = tmp_path / f"{command}-{len(started)}.log"
            with path.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "streams.cli.main", command],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            process.log = path
            started.append(process)
            return process

        run.bootstrap = broker.bootstrap
        yield run
        for process in started:
            process.kill()
            process.wait()


def publish(bootstrap):
    now = datetime.now(UTC)
    with ConsentPublisher(bootstrap, source="/test") as consents:
        for tenant in TENANTS:
            for number in range(USERS):
                consents.grant(tenant_id=tenant, user_id=f"u{number}", notice_version="1")
    with InteractionPublisher(bootstrap, source="/test") as publisher:
        for tenant in TENANTS:
            for number in range(USERS):
                event = InteractionV1(
                    tenant_id=tenant,
                    user_id=f"u{number}",
                    interaction_id="i",
                    prompt="src/a.py",
                    completion="fix: the parser",
                    outcome=Accepted(),
                    notice_version="1",
                    occurred_at=now,
                )
                publisher.publish(event, event_id=f"{tenant}-{number}")


def adapter_events(bootstrap):
    with KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        partitions = [TopicPartition(ADAPTER_EVENTS.name, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records = []
        while any(consumer.position(each) < ends[each] for each in partitions):
            records.extend(record for found in consumer.poll(300).values() for record in found)
    return [decode_adapter_event(record.headers, record.value, key=record.key) for record in records]


def announcements(bootstrap):
    """Return the published versions by event id: a relay may send a row twice, and two of them on SQLite often do."""
    decoded = adapter_events(bootstrap)
    assert all(isinstance(each, Decoded) for each in decoded)
    return {each.envelope.id: each for each in decoded if each.envelope.type == ADAPTER_PUBLISHED}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database_url", [DIALECT], indirect=True)
def test_rounds_are_shared_by_all_and_a_killed_trainers_round_is_taken_over(engine, start):
    now = datetime.now(UTC)
    policy = {
        "declared_users": USERS,
        "minimum_cohort": 1,
        "sample_rate": 1.0,
        "steps": 3,
        "planned_releases": 1,
        "lifetime_epsilon": 16.0,
        "period_epsilon": 16.0,
        "release_padding_seconds": 0,
    }
    with transaction(engine) as session:
        for tenant in TENANTS:
            policies.register_tenant(session, tenant, actor="test", now=now)
            policies.set_policy(session, tenant, policy, actor="test", reason="test", now=now)

    def count(table, *where):
        with transaction(engine) as session:
            return session.exec(select(func.count()).select_from(table).where(*where)).one()

    workers = [start("worker"), start("worker")]
    publish(start.bootstrap)
    wait_until(lambda: count(SignalRow) == len(TENANTS) * USERS, workers)

    schedule = {"schedule.first_at": datetime.now(UTC), "schedule.every_seconds": 30 * 86_400}
    with transaction(engine) as session:
        for tenant in TENANTS:
            policies.set_policy(session, tenant, schedule, actor="test", reason="now", now=datetime.now(UTC))
    trainers = [start("trainer"), start("trainer")]
    held = []

    def some_are_leased():
        with transaction(engine) as session:
            held[:] = session.exec(select(RoundRow).where(RoundRow.state == "leased")).all()
        return bool(held)

    wait_until(some_are_leased, workers + trainers)
    owner = held[0].lease_owner
    taken = {row.round_id for row in held if row.lease_owner == owner}
    (victim,) = [process for process in trainers if owner.endswith(f":{process.pid}")]
    victim.send_signal(signal.SIGKILL)
    trainers.append(start("trainer"))
    wait_until(
        lambda: count(RoundRow, RoundRow.state.in_(CLOSED)) == len(TENANTS), workers + trainers, [victim]
    )
    wait_until(lambda: len(announcements(start.bootstrap)) >= count(AdapterVersionRow), workers)

    with transaction(engine) as session:
        rows = session.exec(select(RoundRow)).all()
        versions = session.exec(select(AdapterVersionRow)).all()
        ledger = Ledger(type("Clock", (), {"now": staticmethod(lambda: datetime.now(UTC))})())
        spends = {row.tenant_id: ledger.spend(session, row.tenant_id, row.period_index) for row in rows}
    assert Counter(row.tenant_id for row in rows) == dict.fromkeys(TENANTS, 1)
    # A kill between the start of a round and its draw forfeits it: its data may have been read.
    done = [row for row in rows if row.state == "done"]
    forfeited = [row for row in rows if row.outcome_code == "forfeited"]
    assert len(done) + len(forfeited) == len(rows)
    assert {row.round_id for row in forfeited} <= taken
    assert Counter(version.tenant_id for version in versions) == {row.tenant_id: 1 for row in done}
    for row in done:
        assert spends[row.tenant_id].reservations == {ReservationState.COMMITTED: 1}
    for row in forfeited:
        assert spends[row.tenant_id].reservations == {ReservationState.FORFEITED: 1}

    published = announcements(start.bootstrap)
    assert Counter(each.data.line_ref for each in published.values()) == {row.line_ref: 1 for row in done}
    # Each announcement belongs to the trace of its round.
    traces = {trace.format_trace_id(round_context(row.round_id).trace_id) for row in done}
    assert {each.envelope.traceparent.split("-")[1] for each in published.values()} == traces

    end([*workers, *(process for process in trainers if process is not victim)])
