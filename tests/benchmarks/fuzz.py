"""Send malformed events through the handlers of every topic and count: no crash, one letter with a reason for each.

python tests/benchmarks/fuzz.py --events 25000 --seed 1 --json fuzz.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlmodel import func, select

from personalization.adapters.signing import ManifestSigner
from privacy.policy import versions as policies
from privacy.policy.cache import TenantPolicies
from privacy.redaction import redact_texts
from privacy.storage.session import open_engine, transaction
from streams.contracts.dead_letter import DeadLetterReason
from streams.ingest.acks import AckHandler
from streams.ingest.consents import ConsentHandler
from streams.ingest.erasures import ErasureHandler
from streams.ingest.interactions import InteractionHandler
from streams.ingest.letters import DeadLetterSink
from streams.ingest.work import Work
from streams.storage import schema as database
from tests.fakes.keys import BACKUPS, keyring_of
from tests.fakes.malformed_events import MAX_BYTES, TOPICS, malformed
from tests.fakes.stream_records import NOW, FakeSender, consent

BATCH = 200


class FuzzWorld:
    """The handlers over one database in which everything but the event is in order."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.sender = FakeSender()
        with transaction(engine) as session:
            policies.register_tenant(session, "acme", actor="fuzz", now=NOW)
            policies.set_policy(session, "acme", {"declared_users": 90}, actor="fuzz", reason="fuzz", now=NOW)
        plain = {
            "engine": engine,
            "letters": DeadLetterSink(self.sender, "fuzz"),
            "clock": lambda: NOW,
            "max_event_bytes": MAX_BYTES,
        }
        shared = {**plain, "keyring": keyring_of(engine), "policies": TenantPolicies(60.0)}
        self._handlers = {
            "interactions": InteractionHandler(**shared, redact=redact_texts),
            "consent": ConsentHandler(**shared),
            "erasures": ErasureHandler(**shared, signer=ManifestSigner(bytes(range(32))), backups=BACKUPS),
            "serving-acks": AckHandler(**plain),
        }
        self.take([consent()], "consent")

    def take(self, records, topic="interactions"):
        return self._handlers[topic].process([Work(record, 0.0, final=True) for record in records])

    def count(self, row_type) -> int:
        with transaction(self.engine) as session:
            return session.exec(select(func.count()).select_from(row_type)).one()


def fuzz(world: FuzzWorld, topic: str, seed: int, events: int) -> tuple[Counter[str], int]:
    """Send the events of one topic; return the crashes by type, and how many events were accepted."""
    crashes: Counter[str] = Counter()
    accepted = 0
    records = list(malformed(seed, events, topic))
    for start in range(0, events, BATCH):
        batch = records[start : start + BATCH]
        try:
            accepted += world.take(batch, topic).effects
        except Exception:
            # Find out which ones, as the worker does.
            for record in batch:
                try:
                    accepted += world.take([record], topic).effects
                except Exception as error:
                    crashes[f"{type(error).__name__}: {str(error)[:120]}"] += 1
    return crashes, accepted


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=25_000, help="events of each topic")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", help="URL of an empty database; by default a SQLite file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []

    def row(name: str, value: float, unit: str, must: str | None = None, ok: bool | None = None) -> None:
        rows.append({"name": name, "value": value, "unit": unit, "must": must, "ok": ok})

    reasons: Counter[str] = Counter()
    total = all_letters = 0
    with tempfile.TemporaryDirectory() as directory:
        url = options.database or f"sqlite:///{directory}/fuzz.sqlite3"
        database.upgrade(url)
        world = FuzzWorld(open_engine(url))
        started = time.monotonic()
        for topic in TOPICS:
            before = len(world.sender.sent)
            crashes, accepted = fuzz(world, topic, options.seed, options.events)
            letters = len(world.sender.sent) - before
            total, all_letters = total + options.events, all_letters + letters
            row(f"fuzz {topic}: events", options.events, "events")
            row(f"fuzz {topic}: crashes", crashes.total(), "events", "0", not crashes)
            row(f"fuzz {topic}: accepted", accepted, "events", "0", not accepted)
            row(f"fuzz {topic}: letters", letters, "letters", "= events", letters == options.events)
            for crash, count in crashes.most_common(5):
                print(f"{topic}: {count} x {crash}", file=sys.stderr)
        reasons.update(world.sender.reasons)
        seconds = time.monotonic() - started
        dialect = world.engine.dialect.name
        world.engine.dispose()
    known = {reason.value for reason in DeadLetterReason} - {DeadLetterReason.PROCESSING_FAILED.value}
    row("fuzz: events", total, "events", ">= 100000", total >= 100_000)
    row("fuzz: letters with a reason", sum(reasons[name] for name in known), "letters", "= events", None)
    rows[-1]["ok"] = rows[-1]["value"] == total == all_letters
    for name, count in sorted(reasons.items()):
        row(f"fuzz reason: {name}", count, "letters")
    document = {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "settings": {"seed": options.seed, "database": dialect, "seconds": round(seconds, 1)},
        "rows": rows,
    }
    print(json.dumps(document, indent=1))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(each["ok"] is not False for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
