"""A large fleet on PostgreSQL: the clock's tick, the sweep, the fates and the erasures beside ingest.

    python tests/benchmarks/fleet.py --postgres URL --json fleet.json

``URL`` is an administrator's; a new database is made there and filled by SQL: by default with 10,000 tenants of which
each had four rounds, 1,000,000 users with keys, consents and a signal, and 10,000,000 fates in seven slots.

Rows:

- ``tick``: as in ``fairness.py``, with all of that in the database;
- ``batch``: 4,000 new interactions in one transaction of the worker's own handler: on an empty database (``empty``), on
  the full one (``full``), there while an erasure of another tenant stays open (``erasure``), the three in turn; and
  beside a sweep that has 5 % of all signals and as many old sent rows as users to delete (``sweep``);
- ``sweep``: transactions, what they deleted, and how long the longest took; then a sweep with nothing to do;
- ``turn``: closing a slot of fates and emptying another;
- ``plans``: statements of all of the above whose plan, of the planner's own choice, reads a table of more than
  100,000 rows without an index.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import event, text

from personalization.rounds import queries as rounds
from privacy.keys.batch_locks import lock_out_batches, numbers
from privacy.keys.service import new_master_key
from privacy.ledger import Ledger
from privacy.policy.cache import TenantPolicies
from privacy.redaction import redact_texts
from privacy.storage.session import open_engine, transaction
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.ingest.slots import SLOTS, held_slots, turn_slots
from streams.ingest.work import Work
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.relay import OutboxRelay
from streams.processes.chores import Chores
from streams.processes.sweeps import ROWS, Sweeper
from streams.settings import OutboxSettings, SchedulerSettings
from streams.telemetry.metrics import WorkerMetrics
from tests.benchmarks import fairness
from tests.benchmarks.ingest import prepare_database, write
from tests.benchmarks.ledger import Postgres
from tests.fakes.keys import keyring_of
from tests.fakes.query_plans import noted_statements, without_index
from tests.fakes.stream_records import FakeSender, interaction

TENANTS_SENDING, USERS = 5, 500
BATCH, BATCHES = 4_000, 10
KEEP = timedelta(days=30)
MUSTS = {"tick": 50.0, "transaction": 1_000.0, "batch": 2.0}
DOMAINS = "(ARRAY['default', 'support', 'sales'])"

FILL = {
    "lines": "INSERT INTO adapter_lines (line_ref, tenant_id, domain, epoch, last_version, created_at)"
    " SELECT 'b' || lpad(n::text, 9, '0'), 't' || lpad(n::text, 5, '0'), 'default', 4, 0, now()"
    " FROM generate_series(0, :tenants - 1) n",
    "rounds": "INSERT INTO training_rounds (round_id, tenant_id, domain, line_ref, period_index, sequence,"
    " scheduled_for, state, epoch, opened_by, opened_at, due_at, closed_at)"
    " SELECT gen_random_uuid()::text, tenant_id, domain, line_ref, p, 0, now() - p * interval '30 days', 'done', 1,"
    " 'schedule', now() - p * interval '30 days', now() - p * interval '30 days', now() - p * interval '29 days'"
    " FROM adapter_lines, generate_series(1, 4) p WHERE line_ref LIKE 'b%'",
    "keys": "INSERT INTO discreet_keys.user_keys (tenant_id, pseudonym, wrapped_key, wrapped_by, created_at)"
    " SELECT 't' || lpad((n % :tenants)::text, 5, '0'), encode(sha256(n::text::bytea), 'hex'),"
    " sha256(('k' || n)::bytea) || sha256(('l' || n)::bytea), '\\x0102030405060708', now()"
    " FROM generate_series(1, :users) n",
    "erased users": "INSERT INTO subject_keys (tenant_id, pseudonym, created_at, destroyed_at)"
    " SELECT 't' || lpad((n % :tenants)::text, 5, '0'), encode(sha256(('x' || n)::bytea), 'hex'), now(), now()"
    " FROM generate_series(1, :users / 5) n",
    "consents": "INSERT INTO consents (tenant_id, pseudonym, purpose, granted, notice_version, occurred_at,"
    " recorded_at) SELECT 't' || lpad((n % :tenants)::text, 5, '0'), encode(sha256(n::text::bytea), 'hex'),"
    " 'training', true, '2026-01', now(), now() FROM generate_series(1, :users) n",
    "signals": "INSERT INTO signals (event_digest, tenant_id, pseudonym, domain, period_index, rank, occurred_at,"
    " ciphertext) SELECT sha256(('e' || n)::bytea), 't' || lpad((n % :tenants)::text, 5, '0'),"
    f" encode(sha256(n::text::bytea), 'hex'), {DOMAINS}[1 + n % 3], 680, sha256(('r' || n)::bytea),"
    " now() - CASE WHEN n % 20 = 7 THEN interval '500 days' ELSE interval '1 day' * (n % 25) END,"
    " decode(repeat(md5(n::text), 8), 'hex') FROM generate_series(1, :users) n",
    "outbox": "INSERT INTO outbox (topic, key, value, headers, created_at, published_at)"
    " SELECT 'discreet.adapter-events.v1', ('k' || n)::bytea, '\\x7b7d', '[]', now() - interval '40 days',"
    " now() - interval '40 days' FROM generate_series(1, :users) n",
}
FATES = (
    "INSERT INTO processed_events (event_digest, processed_at, slot)"
    " SELECT sha256(('f' || n)::bytea), :at, :slot FROM generate_series(CAST(:first AS bigint), :last) n"
)

SMALL = "SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples < 100000"


def fill(engine, tenants, users, fates):
    """Fill the database; the slot that is open holds a seventh of the fates, the oldest is past its time."""
    now = datetime.now(UTC)
    fairness.fill(engine, now, tenants=tenants)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        for name, statement in FILL.items():
            started = time.perf_counter()
            given = {"tenants": tenants, "users": users}
            wanted = {key: value for key, value in given.items() if f":{key}" in statement}
            count = connection.execute(text(statement), wanted).rowcount
            print(f"filled {name}: {count:,} rows in {time.perf_counter() - started:.1f} s", flush=True)
    used = SLOTS - 1
    for slot in range(used):
        started = time.perf_counter()
        opened = now - KEEP * (used - slot) / (SLOTS - 2)
        closed = None if slot == used - 1 else opened + KEEP / (SLOTS - 2) - timedelta(minutes=5)
        with engine.begin() as connection:
            first, last = fates * slot // used + 1, fates * (slot + 1) // used
            connection.execute(text(FATES), {"at": opened, "slot": slot, "first": first, "last": last})
            connection.execute(
                text("UPDATE fate_slots SET opened_at = :opened, closed_at = :closed WHERE slot = :slot"),
                {"opened": opened, "closed": closed, "slot": slot},
            )
        print(
            f"filled slot {slot}: {last - first + 1:,} fates in {time.perf_counter() - started:.1f} s",
            flush=True,
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


class Worker:
    """The handler of interactions with batches of new events of a few tenants."""

    def __init__(self, engine, key):
        self.keyring = keyring_of(engine, key)
        self.handler = InteractionHandler(
            engine=engine,
            letters=DeadLetterSink(FakeSender(), "bench"),
            clock=lambda: datetime.now(UTC),
            keyring=self.keyring,
            policies=TenantPolicies(2.0),
            redact=redact_texts,
            max_event_bytes=65_536,
        )
        self._next = 0

    def batch(self):
        """Process one batch and return its milliseconds; a batch is made before its time begins."""
        now, works = datetime.now(UTC), []
        for _ in range(BATCH):
            user = self._next % USERS
            record = interaction(
                f"user-{user}",
                f"n{self._next}",
                tenant=f"tenant-{user % TENANTS_SENDING}",
                offset=self._next,
                at=now,
            )
            works.append(Work(record, 0.0, final=True))
            self._next += 1
        started = time.perf_counter()
        outcome = self.handler.process(works)
        took = (time.perf_counter() - started) * 1000
        assert outcome.effects == BATCH, outcome
        return took


def batch_row(beside, took):
    """Return the row of batches that took so many milliseconds."""
    return {
        "row": "batch",
        "beside": beside,
        "batches": len(took),
        "median_ms": statistics.median(took),
        "worst_ms": max(took),
        "events_per_second": 1000 * BATCH * len(took) / sum(took),
    }


class Transactions:
    """How long each transaction of a thread took, and how many rows it deleted."""

    def __init__(self, engine):
        self._engine, self._of = engine, threading.local()
        self.took, self.deleted = [], []

    def __enter__(self):
        self._thread = threading.get_ident()
        event.listen(self._engine, "begin", self._begin)
        event.listen(self._engine, "after_cursor_execute", self._executed)
        event.listen(self._engine, "commit", self._commit)
        return self

    def __exit__(self, *_):
        event.remove(self._engine, "begin", self._begin)
        event.remove(self._engine, "after_cursor_execute", self._executed)
        event.remove(self._engine, "commit", self._commit)

    def _begin(self, _connection):
        self._of.since, self._of.rows = time.perf_counter(), 0

    def _executed(self, _connection, cursor, statement, *_):
        if statement.startswith("DELETE"):
            self._of.rows += cursor.rowcount

    def _commit(self, _connection):
        if threading.get_ident() == self._thread:
            self.took.append((time.perf_counter() - self._of.since) * 1000)
            self.deleted.append(self._of.rows)


def sweep_row(engine, sweeper, what):
    """Sweep, and return the row."""
    with Transactions(engine) as transactions:
        started = time.perf_counter()
        assert sweeper.sweep()
        took = time.perf_counter() - started
    return {
        "row": "sweep",
        "what": what,
        "transactions": len(transactions.took),
        "deleted": sum(transactions.deleted),
        "most_deleted": max(transactions.deleted),
        "longest_ms": max(transactions.took),
        "seconds": took,
    }


def turn_row(engine):
    """Close the open slot and empty the oldest, and return the row."""
    with transaction(engine) as session:
        before = held_slots(session).current
    started = time.perf_counter()
    with transaction(engine) as session:
        emptied = turn_slots(session, datetime.now(UTC), KEEP)
    took = (time.perf_counter() - started) * 1000
    with transaction(engine) as session:
        after = held_slots(session).current
    return {"row": "turn", "emptied": emptied, "turned": after != before, "ms": took}


def batch_rows(engine, empty, full):
    """Measure batches on the empty database, the full one, and there beside an erasure, in turn: what else the machine
    does, it does to all three."""
    sending = {number for n in range(TENANTS_SENDING) for number in numbers([f"tenant-{n}"])}
    other = next(f"t{n:05d}" for n in range(1000) if numbers([f"t{n:05d}"])[0] not in sending)
    took = {"empty": [], "full": [], "erasure": []}
    for worker in (empty, full):
        worker.batch()  # a fresh worker reads keys first
    for _ in range(BATCHES):
        took["empty"].append(empty.batch())
        took["full"].append(full.batch())
        with transaction(engine) as session:
            lock_out_batches(session, [other])
            took["erasure"].append(full.batch())
    return [batch_row(beside, times) for beside, times in took.items()]


def measure(engine, empty, full):
    """Return the rows of a filled database."""
    yield from fairness.measured_ticks(engine, datetime.now(UTC))
    yield from batch_rows(engine, empty, full)
    yield turn_row(engine)
    settings = SchedulerSettings(), OutboxSettings()
    sweeper = Sweeper(engine, lambda: datetime.now(UTC), *settings, check_time=lambda *_: None)
    ended, rows, took = threading.Event(), [], []

    def sweeping():
        try:
            rows.append(sweep_row(engine, sweeper, "much to do"))
        finally:
            ended.set()

    thread = threading.Thread(target=sweeping)
    thread.start()
    while not took or not ended.is_set():
        took.append(full.batch())
    thread.join()
    yield batch_row("sweep", took)
    yield from rows
    yield sweep_row(engine, sweeper, "nothing to do")
    yield plans_row(engine, full, sweeper)


def plans_row(engine, worker, sweeper):
    """Explain, by the planner's own choice, what batches, a tick, a relay's turn and a sweep send."""
    chores = Chores(
        engine=engine,
        relay=OutboxRelay(engine, FakeSender(), batch_rows=10),
        keyring=worker.keyring,
        clock=lambda: datetime.now(UTC),
        scheduler=SchedulerSettings(),
        outbox=OutboxSettings(),
        metrics=WorkerMetrics(),
        ledger=Ledger(lambda: datetime.now(UTC)),
        events=OutboxAdapterEvents(),
        check_time=lambda *_: None,
    )
    store = worker.keyring.store.engine
    with noted_statements(engine) as noted, noted_statements(store) as of_keys:
        worker.batch()
        chores.open_rounds()
        chores.relay_outbox()
        sweeper.sweep()
        with transaction(engine) as session:
            rounds.lease_round(session, "bench", datetime.now(UTC), timedelta(seconds=60))
    with engine.connect() as connection:
        small = list(connection.execute(text(SMALL)).scalars())
    found = {}
    for place, statements in ((engine, noted), (store, of_keys)):
        for statement, parameters in statements.items():
            if scans := without_index(place, statement, parameters, small=small):
                found[statement] = scans
    return {"row": "plans", "statements": len(noted) + len(of_keys), "without_index": found}


def judged(rows):
    """Return the house's rows: what was measured, what it must be, and whether it is."""
    batches = {row["beside"]: row["median_ms"] for row in rows if row["row"] == "batch"}
    judged = fairness.judged_ticks(rows)
    for row in rows:
        if row["row"] == "batch":
            beside = {"empty": "on an empty database", "full": "on the full database"}.get(
                row["beside"], f"on the full database, beside: {row['beside']}"
            )
            judged.append(
                fairness.judged_row(f"{BATCH:,} interactions {beside}", row["median_ms"], "ms, median")
            )
        if row["row"] == "sweep":
            name = f"sweep with {row['what']} ({row['transactions']} transactions)"
            judged.append(
                fairness.judged_row(f"{name}: longest", row["longest_ms"], "ms", most=MUSTS["transaction"])
            )
            judged.append(
                fairness.judged_row(f"{name}: most deleted in one", row["most_deleted"], "rows", most=ROWS)
            )
        if row["row"] == "turn":
            took = row["ms"] if row["emptied"] else float("inf")
            judged.append(
                fairness.judged_row("a slot of fates emptied", took, "ms", most=MUSTS["transaction"])
            )
        if row["row"] == "plans":
            name = f"of {row['statements']} statements, those that read a large table without an index"
            judged.append(fairness.judged_row(name, len(row["without_index"]), "statements", most=0))
    slower = batches["erasure"] / batches["full"]
    name = "batch beside another tenant's erasure ÷ without"
    judged.append(fairness.judged_row(name, slower, "ratio", most=MUSTS["batch"]))
    return judged


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--postgres", required=True, help="address of an administrator; a new database is made there"
    )
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--fates", type=int, default=10_000_000)
    options = parser.parse_args()
    server = Postgres(options.postgres)
    scale = {"tenants": options.tenants, "users": options.users, "fates": options.fates}
    rows = [{"row": "server", "says": server.durability(), **scale}]
    with ExitStack() as stack:
        engines, workers = [], []
        for _ in range(2):
            name, url = server.create()
            stack.callback(server.drop, name)
            key = new_master_key()
            prepare_database(url, key, TENANTS_SENDING, USERS)
            engines.append(open_engine(url))
            stack.callback(engines[-1].dispose)
            workers.append(Worker(engines[-1], key))
        fill(engines[1], options.tenants, options.users, options.fates)
        for row in measure(engines[1], *workers):
            rows.append(row)
            print(json.dumps(row), flush=True)
    found = judged(rows)
    write(options.json, {"scale": scale, "measured": rows}, found)
    return 1 if any(row["ok"] is False for row in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
