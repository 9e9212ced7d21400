"""What one tenant costs the others, and what many tenants cost the clock.

    python tests/benchmarks/fairness.py --json fairness.json                SQLite
    … --postgres URL                                                        PostgreSQL, a new database

Rows:

- ``tick``: the worker's look at the clock (``open_due_rounds``) with 10,000 tenants, none, one or 50 of which are due;
- ``hog``: tenants send at a steady rate, alone and beside one more that sends as much as all of them together: events
  that are all refused (``refused``), or early events without a consent, of so many users that they fill the room
  (``early``). Throughput and latency are those of the others' events, from the offer to the commit, in the worker's own
  intake and handler without a broker.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import insert, text, update

from personalization.rounds.queries import MOST_AT_ONCE, open_due_rounds
from privacy.keys.service import new_master_key
from privacy.policy import versions as policies
from privacy.policy.cache import TenantPolicies
from privacy.policy.tables import PolicyRow, TenantRow
from privacy.redaction import redact_texts
from privacy.storage.session import open_engine, transaction
from streams.broker.progress import PartitionProgress
from streams.broker.records import RecordRun
from streams.ingest.intake import Intake
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.settings import IngestSettings
from streams.storage import schema as database
from tests.benchmarks.ingest import prepare_database, write
from tests.benchmarks.ledger import Postgres
from tests.fakes.keys import keyring_of
from tests.fakes.stream_records import FakeSender, interaction

TENANTS = 10_000
TICKS = 20
TENANTS_SENDING, USERS = 5, 500  # the last of the tenants is the hog
HOG = f"tenant-{TENANTS_SENDING - 1}"
GOOD = [user for user in range(USERS) if user % TENANTS_SENDING != TENANTS_SENDING - 1]
STEP_SECONDS = 0.02
MUSTS = {"tick": 50.0, "throughput": 0.9, "latency": 2.0}


def fill(engine, now, tenants=TENANTS):
    """Register the tenants, each with a policy of its own and a release in an hour."""
    later = now + timedelta(hours=1)
    with transaction(engine) as session:
        policies.register_tenant(session, "model", actor="bench", now=now)
        changes = {"declared_users": 500, "schedule": {"first_at": later, "every_seconds": 86_400}}
        made = policies.set_policy(session, "model", changes, actor="bench", reason="bench", now=now)
        names = [f"t{number:05d}" for number in range(tenants)]
        session.connection().execute(
            insert(TenantRow),
            [
                {"tenant_id": name, "registered_at": now, "registered_by": "bench", "next_due_at": later}
                for name in names
            ],
        )
        session.connection().execute(
            insert(PolicyRow),
            [
                {
                    "tenant_id": name,
                    "version": 1,
                    "document": made.policy.to_document() | {"declared_users": 500 + number},
                    "digest": made.digest,
                    "set_at": now,
                    "set_by": "bench",
                    "reason": "bench",
                }
                for number, name in enumerate(names)
            ],
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def tick_rows(engine):
    """Measure ticks; return milliseconds of wall time (median, worst) by how many tenants are due."""
    now = datetime.now(UTC)
    fill(engine, now)
    return measured_ticks(engine, now)


def measured_ticks(engine, now):
    """Measure ticks on a database that is filled."""
    rows, made = [], 0
    for due in (0, 1, MOST_AT_ONCE):
        took, opened = [], 0
        for _ in range(TICKS if due < MOST_AT_ONCE else 2):
            if due:
                names = [f"t{number:05d}" for number in range(made, made + due)]
                made += due
                with transaction(engine) as session:
                    _make_due(session, names, now)
            started = time.perf_counter()
            with transaction(engine) as session:
                opened += len(open_due_rounds(session, now, most=max(due, 1)))
            took.append((time.perf_counter() - started) * 1000)
        rows.append(
            {
                "row": "tick",
                "tenants": TENANTS,
                "due": due,
                "opened": opened,
                "median_ms": statistics.median(took),
                "worst_ms": max(took),
            }
        )
    return rows


def _make_due(session, names, now):
    session.execute(update(TenantRow).where(TenantRow.tenant_id.in_(names)).values(next_due_at=now))
    for row in session.query(PolicyRow).where(PolicyRow.tenant_id.in_(names)):
        document = dict(row.document)
        document["schedule"] = {"first_at": now.isoformat(), "every_seconds": 86_400}
        version = {**row.model_dump(), "version": row.version + 1, "document": document}
        session.add(PolicyRow(**version))


def hog_rows(url, key, *, seconds, rate):
    """Measure the others alone and beside each kind of hog."""
    rows = []
    for kind in ("none", "refused", "early"):
        measured = asyncio.run(_others(url, key, kind, seconds=seconds, rate=rate))
        rows.append({"row": "hog", "hog": kind, "rate": rate, **measured})
    return rows


async def _others(url, key, kind, *, seconds, rate):
    engine = open_engine(url)
    handler = InteractionHandler(
        engine=engine,
        letters=DeadLetterSink(FakeSender(), "bench"),
        clock=lambda: datetime.now(UTC),
        keyring=keyring_of(engine, key),
        policies=TenantPolicies(2.0),
        redact=redact_texts,
        max_event_bytes=65_536,
    )
    offered: dict[tuple[int, int], float] = {}
    latencies: list[float] = []

    class Observer:
        def batch_done(self, _topic, works, _outcome, _seconds):
            done = time.perf_counter()
            for work in works:
                at = offered.pop((work.record.partition, work.record.offset), None)
                if at is not None:
                    latencies.append(done - at)

        def retrying(self, _topic):
            raise AssertionError("nothing should fail here")

        def slowed(self, _topic):
            pass

    intake = Intake(
        "discreet.interactions.v1", handler, IngestSettings(consent_wait_seconds=10.0), Observer()
    )
    loop = asyncio.create_task(intake.run())
    progress, offset, turned_away = PartitionProgress(), 0, 0
    per_step, started = max(1, int(rate * STEP_SECONDS)), time.perf_counter()
    for step in range(int(seconds / STEP_SECONDS)):
        while intake.full:  # as the consumer does
            turned_away += 1
            await asyncio.sleep(STEP_SECONDS)
        records = []
        for _ in range(per_step):
            records.append(_event(kind, step, offset, hog=False))
            offered[0, offset] = time.perf_counter()
            offset += 1
            if kind != "none":
                records.append(_event(kind, step, offset, hog=True))
                offset += 1
        progress.deliver(records[0].offset, records[-1].offset)
        await intake.offer(RecordRun(records, progress))
        await asyncio.sleep(max(0.0, started + (step + 1) * STEP_SECONDS - time.perf_counter()))
    while offered:
        await asyncio.sleep(STEP_SECONDS)
    took = time.perf_counter() - started
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    engine.dispose()
    latencies.sort()
    return {
        "events": len(latencies),
        "events_per_second": len(latencies) / took,
        "median_ms": 1000 * statistics.median(latencies),
        "p99_ms": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
        "turned_away": turned_away,
    }


def _event(kind, step, offset, *, hog):
    now = datetime.now(UTC)
    if not hog:
        user = GOOD[offset // 2 % len(GOOD)]
        tenant = f"tenant-{user % TENANTS_SENDING}"
        return interaction(f"user-{user}", f"{kind}-{offset}", tenant=tenant, offset=offset, at=now)
    # One that is refused names a domain that no policy has; one that waits is a new user's, whose consent never comes.
    extra = {"domain": "nothing"} if kind == "refused" else {}
    return interaction(f"hog-{step}-{offset}", f"{kind}-{offset}", tenant=HOG, offset=offset, at=now, **extra)


def judged_row(name, value, unit, *, least=None, most=None):
    """Return one row in the house's form."""
    must = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else None
    ok = None if must is None else (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": round(value, 3), "unit": unit, "must": must, "ok": ok}


def judged_ticks(rows):
    """Return the house's rows of the ticks among ``rows``."""
    return [
        judged_row(
            f"tick with {row['tenants']:,} tenants, {row['due']} due",
            row["median_ms"],
            "ms, median",
            most=MUSTS["tick"] if row["due"] <= 1 else None,
        )
        for row in rows
        if row["row"] == "tick"
    ]


def judged(rows):
    """Return the house's rows: what was measured, what it must be, and whether it is."""
    judged, hogs = judged_ticks(rows), {row["hog"]: row for row in rows if row["row"] == "hog"}
    alone = hogs.pop("none")
    judged.append(judged_row("others alone: events/s", alone["events_per_second"], "1/s"))
    judged.append(judged_row("others alone: latency", alone["median_ms"], "ms, median"))
    for kind, row in hogs.items():
        judged.append(
            judged_row(
                f"others beside a hog ({kind}): throughput ÷ alone",
                row["events_per_second"] / alone["events_per_second"],
                "ratio",
                least=MUSTS["throughput"],
            )
        )
        judged.append(
            judged_row(
                f"others beside a hog ({kind}): latency ÷ alone",
                row["median_ms"] / alone["median_ms"],
                "ratio of medians",
                most=MUSTS["latency"],
            )
        )
    return judged


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--postgres", help="address of an administrator; a new database is made there")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run beside a hog")
    parser.add_argument("--rate", type=float, default=1000.0, help="events of the others in a second")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places: list[Path | str] = [folder / "ticks.db", folder / "hogs.db"]
        if options.postgres:
            server = Postgres(options.postgres)
            for number in range(2):
                name, places[number] = server.create()
                stack.callback(server.drop, name)
        ticks = places[0] if options.postgres else f"sqlite:///{places[0]}"
        database.upgrade(ticks)
        engine = open_engine(ticks)
        rows = tick_rows(engine)
        engine.dispose()
        key = new_master_key()
        url = prepare_database(places[1], key, TENANTS_SENDING, USERS)
        rows += hog_rows(url, key, seconds=options.seconds, rate=options.rate)
    found = judged(rows)
    settings = {
        "database": "PostgreSQL" if options.postgres else "SQLite",
        "rate": options.rate,
        "seconds": options.seconds,
        "measured": rows,
    }
    write(options.json, settings, found)
    return 1 if any(row["ok"] is False for row in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
