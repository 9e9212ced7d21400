"""Send malformed events through the interaction handler and count: zero crashes, one letter with a reason for each.

python tests/benchmarks/fuzz.py --events 100000 --seed 1 --json fuzz.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sqlmodel import func, select

from privacy.keyring import Keyring, new_master_key
from privacy.redaction import redact
from privacy.services import policies
from privacy.storage.session import open_engine, transaction
from streams import database
from streams.agents.consent import ConsentHandler
from streams.agents.intake import Work
from streams.agents.interactions import InteractionHandler
from streams.dead_letters import DeadLetterSink
from streams.tenants import TenantPolicies
from tests.fakes.malformed_events import MAX_BYTES, malformed
from tests.fakes.stream_records import NOW, FakeSender, consent


class FuzzWorld:
    """A handler over one database in which everything but the event is in order."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.sender = FakeSender()
        with transaction(engine) as session:
            policies.register_tenant(session, "acme", actor="fuzz", now=NOW)
            policies.set_policy(session, "acme", {"declared_users": 90}, actor="fuzz", reason="fuzz", now=NOW)
        shared = {
            "engine": engine,
            "letters": DeadLetterSink(self.sender, "fuzz"),
            "clock": lambda: NOW,
            "keyring": Keyring(new_master_key()),
            "policies": TenantPolicies(60.0),
            "max_event_bytes": MAX_BYTES,
        }
        ConsentHandler(**shared).process([Work(consent(), 0.0)])
        self._handler = InteractionHandler(**shared, redact=lambda value: redact(value).text)

    def take(self, records):
        return self._handler.process([Work(record, 0.0, final=True) for record in records])

    def count(self, row_type) -> int:
        with transaction(self.engine) as session:
            return session.exec(select(func.count()).select_from(row_type)).one()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/fuzz.sqlite3"
        database.upgrade(url)
        world = FuzzWorld(open_engine(url))
        started = time.monotonic()
        crashes: Counter[str] = Counter()
        accepted = 0
        batch = []
        for record in malformed(options.seed, options.events):
            batch.append(record)
            if len(batch) == 500:
                try:
                    accepted += world.take(batch).effects
                except Exception as error:
                    crashes[type(error).__name__] += 1
                batch = []
        if batch:
            accepted += world.take(batch).effects
        document = {
            "events": options.events,
            "letters": len(world.sender.sent),
            "accepted": accepted,
            "crashes": crashes,
            "reasons": Counter(world.sender.reasons),
            "seconds": time.monotonic() - started,
        }
    print(json.dumps(document, indent=1))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))
    return 0 if not crashes and document["letters"] == options.events else 1


if __name__ == "__main__":
    sys.exit(main())
