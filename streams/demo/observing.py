"""Read from the database and the dead-letter topic how far the worker and the trainer have come."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from personalization.rounds import queries as rounds
from personalization.signals.rows import signal_counts
from privacy.consent import statements as consents
from privacy.storage.session import transaction
from streams.client import KafkaBroker
from streams.contracts.dead_letter import DeadLetter
from streams.contracts.envelope import sender_digest
from streams.contracts.topics import DEAD_LETTERS, INTERACTIONS
from streams.demo.publishing import SOURCE
from streams.ingest.fates import EFFECT, fates
from streams.ingest.identity import event_digest
from streams.telemetry.trainer_log import PROGRESS_EVENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from personalization.rounds.tables import RoundRow
    from privacy.keys.keyring import Keyring


class IngestObserver:
    """Counts what became of published interactions.

    Args:
        engine: the worker's database.
        broker: ``host:port``.
        keyring: names the users.
        events: (tenant, user, event id) of the interactions that should be stored.
    """

    def __init__(
        self, engine: Engine, broker: str, keyring: Keyring, events: Sequence[tuple[str, str, str]]
    ) -> None:
        self._engine = engine
        with transaction(engine) as session:
            tenants = {tenant for tenant, _, _ in events}
            keys = keyring.keys_of_tenants(session, tenants, now=datetime.now(UTC))
        self._waiting = [
            event_digest(
                INTERACTIONS.name,
                (tenant, keys[tenant].hashes.first(user)),
                sender_digest(SOURCE, event_id),
            )
            for tenant, user, event_id in events
        ]
        self._stored = 0
        self._letters = KafkaBroker(bootstrap=broker).open_source(DEAD_LETTERS.name)
        self._refused: set[tuple[str, int, int]] = set()

    def stored(self) -> int:
        """Return how many of the interactions have had their effect."""
        with transaction(self._engine) as session:
            found = {digest for digest, fate in fates(session, self._waiting).items() if fate == EFFECT}
        self._waiting = [digest for digest in self._waiting if digest not in found]
        self._stored += len(found)
        return self._stored

    def dead_lettered(self) -> int:
        """Return how many records were dead-lettered; two letters of one origin count once."""
        while records := self._letters.poll(0.1):
            for record in records:
                letter = DeadLetter.from_headers(record.headers)
                self._refused.add((letter.topic, letter.partition, letter.offset))
        return len(self._refused)

    def close(self) -> None:
        """Give the connection back."""
        self._letters.close()


def consents_recorded(engine: Engine) -> int:
    """Return how many consents the worker has recorded."""
    with transaction(engine) as session:
        return consents.recorded(session)


def training_progress(log: Path) -> tuple[str, int, int] | None:
    """Return the last (stage, done, total) that the trainer wrote to its log, if it has got so far."""
    for line in reversed(log.read_text("utf-8", errors="replace").splitlines()):
        if PROGRESS_EVENT in line:
            try:
                event = json.loads(line)
            except ValueError:  # the line is still being written
                continue
            return str(event["stage"]), int(event["done"]), int(event["total"])
    return None


def signals_per_tenant(engine: Engine, tenants: Sequence[str]) -> dict[str, int]:
    """Return how many signals are stored for each tenant (an operator's count of the demo's own data)."""
    with transaction(engine) as session:
        return signal_counts(session, tenants)


def rounds_by_id(engine: Engine, round_ids: Sequence[str]) -> dict[str, RoundRow]:
    """Return the rows of the given rounds."""
    with transaction(engine) as session:
        return {
            row.round_id: row for row in rounds.list_rounds(session, limit=1000) if row.round_id in round_ids
        }
