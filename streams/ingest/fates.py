"""The fate of each event, by its identity (``streams.ingest.identity``), decided once, in its effect's transaction.

An event had its *effect*, or it was *refused* at one place in its topic (a dead letter names the same
place). The row is unique, so two workers that hold the same record, one of them back from a long pause,
cannot give it two fates, and a copy that was published again shares the fate of the first. Only a replay,
which names the refusal it answers, is judged anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, update

from privacy.storage.bulk import insert_rows, lookup_rows, moment_writer
from streams.ingest.tables import ProcessedEventRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Table
    from sqlmodel import Session

    from streams.broker.records import SourceRecord

_TABLE: Table = ProcessedEventRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
_COLUMNS = ("event_digest", "processed_at", "refused_origin", "refusal")


REPLAY_HEADER = "discreet_replayed_from"
"""Header of a replayed record: the place where it was refused."""


class Fate(NamedTuple):
    """What became of an event; without an origin it had its effect.

    Attributes:
        refused_origin: where it was refused.
        refusal: why; what the letter says.
    """

    refused_origin: str | None
    refusal: str | None


EFFECT = Fate(None, None)


def origin(record: SourceRecord) -> str:
    """Return the place of a record, as text."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def reopened(record: SourceRecord, fate: Fate) -> bool:
    """Say whether ``record`` is a replay of the refusal that ``fate`` tells of."""
    if fate.refused_origin is None:
        return False
    return dict(record.headers).get(REPLAY_HEADER) == fate.refused_origin.encode()


def fates(session: Session, digests: Sequence[bytes]) -> Mapping[bytes, Fate]:
    """Return what became of those of the events that have a fate."""
    rows = lookup_rows(session, _TABLE.name, "event_digest", digests, _COLUMNS[2:])
    return {digest: Fate(refused_origin, refusal) for digest, refused_origin, refusal in rows}


def decide(
    session: Session,
    decided: Mapping[bytes, Fate],
    known: Collection[bytes],
    now: datetime,
) -> None:
    """Write the fates that were decided.

    A digest that another transaction writes at the same moment makes this one fail as a whole; tried again,
    it sees the other's row.

    Args:
        session: inside the effects' transaction.
        decided: the fate of each digest.
        known: digests that have a row (of an earlier refusal), which is changed instead.
        now: the clock.
    """
    at = moment_writer(session)(now)
    rows = [(digest, at, *fate) for digest, fate in decided.items() if digest not in known]
    insert_rows(session, _TABLE.name, _COLUMNS, rows)
    for digest in decided.keys() & known:
        statement = update(_TABLE).where(_TABLE.c.event_digest == digest)
        session.execute(statement.values(processed_at=now, **decided[digest]._asdict()))


def forget_processed(session: Session, before: datetime) -> int:
    """Delete the fates decided before ``before`` and return how many there were."""
    result = session.execute(delete(_TABLE).where(_TABLE.c.processed_at < before))
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DELETE's result has it
