"""The fate of each event, by its identity (``streams.ingest.identity``), decided once, in its effect's transaction.

An event had its *effect*, or it was *refused* at one place in its topic (a dead letter names the same
place). The row is unique (``streams.ingest.slots`` says how), so two workers that hold the same record, one of
them back from a long pause, cannot give it two fates, and a copy that was published again shares the fate of the
first. Only a replay, which names the refusal it answers, is judged anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, select

from privacy.storage.bulk import insert_rows, lookup_rows, moment_writer
from streams.ingest.slots import held_slots, turn_slots
from streams.ingest.tables import ProcessedEventRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Table
    from sqlmodel import Session

    from streams.broker.records import SourceRecord

_TABLE: Table = ProcessedEventRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
_COLUMNS = ("event_digest", "processed_at", "refused_origin", "refusal", "slot")


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
    slots = ", ".join(map(str, held_slots(session).used))
    rows = lookup_rows(
        session, _TABLE.name, "event_digest", sorted(digests), _COLUMNS[2:4], where=f"slot IN ({slots})"
    )
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
        known: digests that have a row (of an earlier refusal), which the new one takes the place of.
        now: the clock.
    """
    slots = held_slots(session)
    for digest in decided.keys() & known:
        there = (_TABLE.c.event_digest == digest) & _TABLE.c.slot.in_(slots.used)
        session.execute(delete(_TABLE).where(there))
    at = moment_writer(session)(now)
    # In the key's order, in which rows go into an index fastest.
    current = slots.current
    rows = [(digest, at, place, refusal, current) for digest, (place, refusal) in sorted(decided.items())]
    insert_rows(session, _TABLE.name, _COLUMNS, rows)


def forget(session: Session, now: datetime, keep: timedelta, *, most: int) -> int:
    """Forget fates that were decided longer ago than ``keep``: on PostgreSQL whole slots, and later than on the day.

    Args:
        session: inside a transaction of its own.
        now: the clock.
        keep: how long fates are kept at least.
        most: rows to delete at once, on SQLite.

    Returns:
        Deleted rows on SQLite (``most``: there may be more); 0 on PostgreSQL, where nothing is left to do.
    """
    if session.get_bind().dialect.name == "postgresql":
        turn_slots(session, now, keep)
        return 0
    old = (
        select(_TABLE.c.event_digest)
        .where(_TABLE.c.processed_at < now - keep)
        .order_by(_TABLE.c.processed_at)
        .limit(most)
    )
    result = session.execute(delete(_TABLE).where(_TABLE.c.event_digest.in_(old)))
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DELETE's result has it
