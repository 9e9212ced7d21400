"""The rows of the outbox: written in the transaction whose effect is to be told, taken and marked by the relay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, update
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from streams.contracts.topics import TOPICS
from streams.outbox.tables import OutboxRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Protocol

    from sqlmodel import Session

    class Sendable(Protocol):
        """A record that is to be sent."""

        @property
        def topic(self) -> str:
            """Name of the topic."""

        @property
        def key(self) -> bytes | None:
            """Raw key."""

        @property
        def value(self) -> bytes | None:
            """Raw value; ``None`` is a tombstone."""

        @property
        def headers(self) -> Sequence[tuple[str, bytes]]:
            """Header names and values (UTF-8)."""


SOURCE = "urn:discreet:worker"

# Records whose key names a user are not kept once they are sent.
_PERSONAL_TOPICS = tuple(topic.name for topic in TOPICS if topic.holds_personal_data)


def add_record(session: Session, record: Sendable, now: datetime) -> None:
    """Add one record to the caller's transaction; it leaves once that is committed."""
    session.add(
        OutboxRow(
            topic=record.topic,
            key=record.key or b"",
            value=record.value,
            headers=[[name, value.decode()] for name, value in record.headers],
            created_at=now,
        )
    )


def oldest_of_each_key(session: Session, limit: int) -> Sequence[OutboxRow]:
    """Return at most ``limit`` waiting rows, of each (topic, key) the oldest, locked until the transaction ends."""
    earlier = aliased(OutboxRow)
    statement = (
        select(OutboxRow)
        .where(
            col(OutboxRow.published_at).is_(None),
            ~exists().where(
                col(earlier.topic) == OutboxRow.topic,
                col(earlier.key) == OutboxRow.key,
                col(earlier.published_at).is_(None),
                col(earlier.outbox_id) < col(OutboxRow.outbox_id),
            ),
        )
        .order_by(col(OutboxRow.outbox_id))
        .limit(limit)
        .with_for_update(skip_locked=True, of=OutboxRow)  # SQLite has one writer and ignores it
    )
    return session.exec(statement).all()


def mark_sent(session: Session, rows: Sequence[OutboxRow], now: datetime) -> None:
    """Mark ``rows`` as sent; those that name a user are deleted instead."""
    if rows:
        ids = [row.outbox_id for row in rows]
        sent = col(OutboxRow.outbox_id).in_(ids)
        personal = col(OutboxRow.topic).in_(_PERSONAL_TOPICS)
        session.execute(delete(OutboxRow).where(sent, personal))
        session.execute(update(OutboxRow).where(sent).values(published_at=now))


def waiting(session: Session) -> int:
    """Return how many rows wait to be sent."""
    return session.exec(
        select(func.count()).select_from(OutboxRow).where(col(OutboxRow.published_at).is_(None))
    ).one()


def forget_sent(session: Session, before: datetime) -> int:
    """Delete rows that were sent before ``before`` and return how many there were."""
    statement = delete(OutboxRow).where(col(OutboxRow.published_at) < before)
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]  # of a DELETE
