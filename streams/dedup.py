"""Which events have had their effect, asked and noted for whole batches in the effect's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from streams.storage.tables import ProcessedEventRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Table
    from sqlmodel import Session

_TABLE: Table = ProcessedEventRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
DIGESTS_PER_STATEMENT = 500


def processed_among(session: Session, digests: Sequence[bytes]) -> set[bytes]:
    """Return those of ``digests`` whose events have had their effect."""
    found: set[bytes] = set()
    for start in range(0, len(digests), DIGESTS_PER_STATEMENT):
        part = digests[start : start + DIGESTS_PER_STATEMENT]
        statement = select(_TABLE.c.event_digest).where(_TABLE.c.event_digest.in_(part))
        found.update(bytes(digest) for digest in session.execute(statement).scalars())
    return found


def mark_processed(session: Session, digests: Sequence[bytes], now: datetime) -> None:
    """Note that the events have had their effect.

    A digest that another transaction notes at the same moment makes this one fail as a whole; tried again,
    it sees the other's mark.
    """
    if digests:
        session.execute(insert(_TABLE), [{"event_digest": digest, "processed_at": now} for digest in digests])


def forget_processed(session: Session, before: datetime) -> int:
    """Delete the marks made before ``before`` and return how many there were."""
    result = session.execute(delete(_TABLE).where(_TABLE.c.processed_at < before))
    return int(result.rowcount)  # type: ignore[attr-defined]  # a DELETE's result has it
