"""What is due to be anchored: noted in the transaction that moves it, taken by whoever writes the anchor.

The rows are only ever added and taken away, never changed: writers of one tenant that hold other locks meanwhile do
not wait for each other here. Whoever takes rows reads them first and the tenants after that, so what it reads of a
tenant is at least as new as the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, text
from sqlmodel import col, select

from privacy.anchor.tables import AnchorDueRow, TimelineRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.sql.dml import Insert
    from sqlmodel import Session

_IDS_PER_STATEMENT = 500
_ANCHOR_LOCK = 7_243_004  # advisory lock number on PostgreSQL; any number of ours


def due_insert(tenant_id: str) -> Insert:
    """Return the statement that notes a tenant, to be sent together with what moves it."""
    return insert(AnchorDueRow.__table__).values(tenant_id=tenant_id)  # type: ignore[attr-defined]


def mark_due(session: Session, tenant_id: str, *, pseudonym: str | None = None) -> None:
    """Note that something of a tenant moved; ``pseudonym`` is that of a user who was erased."""
    session.execute(
        insert(AnchorDueRow.__table__).values(tenant_id=tenant_id, pseudonym=pseudonym)  # type: ignore[attr-defined]
    )


def due_rows(session: Session, limit: int | None) -> Sequence[AnchorDueRow]:
    """Return what is due, oldest first; all of it without a limit."""
    return session.exec(select(AnchorDueRow).order_by(col(AnchorDueRow.due_id)).limit(limit)).all()


def settle(session: Session, rows: Iterable[AnchorDueRow]) -> None:
    """Take away what is anchored by now."""
    ids = [row.due_id for row in rows]
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        part = ids[start : start + _IDS_PER_STATEMENT]
        session.execute(delete(AnchorDueRow).where(col(AnchorDueRow.due_id).in_(part)))


def lock_anchor(session: Session, *, wait: bool = True) -> bool:
    """Let nobody else write the anchor until this transaction ends; return whether we may (SQLite always lets us).

    Without ``wait`` the answer is False where somebody else does.
    """
    if session.get_bind().dialect.name != "postgresql":
        return True
    if wait:
        session.execute(text(f"SELECT pg_advisory_xact_lock({_ANCHOR_LOCK})"))
        return True
    return bool(session.execute(text(f"SELECT pg_try_advisory_xact_lock({_ANCHOR_LOCK})")).scalar_one())


def timeline(session: Session) -> int | None:
    """Return in which life the database is; ``None`` when it was never anchored."""
    return session.exec(select(func.max(TimelineRow.timeline))).one()


def begin_timeline(session: Session, number: int, now: datetime) -> None:
    """Begin a new life of the database."""
    session.add(TimelineRow(timeline=number, began_at=now))
    session.flush()
