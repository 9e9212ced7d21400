"""The rows of the outbox: written in the transaction whose effect is to be told, taken and marked by the relay."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, or_, update
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from streams.contracts.topics import TOPICS
from streams.outbox.tables import OutboxRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from sqlmodel import Session

    from privacy.boundary.marks import Released

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
MOST_COUNTED = 100_000
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)

# Records whose key names a user are not kept once they are sent.
_PERSONAL_TOPICS = tuple(topic.name for topic in TOPICS if topic.holds_personal_data)


def add_record(session: Session, released: Released[Sendable], at: datetime | None) -> None:
    """Add one record to the caller's transaction; it leaves once that is committed, and not before ``at``.

    ``None``: at once. What answers a person must not wait for the hour that a worker's wrong clock shows.
    """
    record = released.value
    session.add(
        OutboxRow(
            topic=record.topic,
            key=record.key or b"",
            value=record.value,
            headers=[[name, value.decode()] for name, value in record.headers],
            created_at=at or AT_ONCE,
        )
    )


def oldest_of_each_key(
    session: Session,
    limit: int,
    now: datetime,
    *,
    but_rows: Sequence[int] = (),
    but_topics: Sequence[str] = (),
    only_topic: str | None = None,
) -> Sequence[OutboxRow]:
    """Return at most ``limit`` waiting rows that may leave at ``now``, locked until the transaction ends.

    Of each (topic, key) it is the oldest. A row whose time has not come waits, and is sent at once when a later one of
    its key may leave: a person's act on a line (a withdrawal) must neither wait nor overtake.

    Args:
        session: the caller's transaction.
        limit: most rows.
        now: aware UTC.
        but_rows: ids of rows that wait apart; later rows of their keys wait behind them.
        but_topics: topics of which nothing is taken.
        only_topic: the only topic of which something is taken.
    """
    earlier, later = aliased(OutboxRow), aliased(OutboxRow)
    statement = (
        select(OutboxRow)
        .where(
            col(OutboxRow.published_at).is_(None),
            or_(
                col(OutboxRow.created_at) <= now,
                exists().where(
                    col(later.topic) == OutboxRow.topic,
                    col(later.key) == OutboxRow.key,
                    col(later.published_at).is_(None),
                    col(later.outbox_id) > col(OutboxRow.outbox_id),
                    col(later.created_at) <= now,
                ),
            ),
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
    if but_rows:
        statement = statement.where(col(OutboxRow.outbox_id).not_in(but_rows))
    if but_topics:
        statement = statement.where(col(OutboxRow.topic).not_in(but_topics))
    if only_topic is not None:
        statement = statement.where(col(OutboxRow.topic) == only_topic)
    return session.exec(statement).all()


def waiting_row(session: Session, outbox_id: int) -> Sequence[OutboxRow]:
    """Return one waiting row, locked until the transaction ends; nothing when it was sent or another relay has it."""
    statement = (
        select(OutboxRow)
        .where(col(OutboxRow.outbox_id) == outbox_id, col(OutboxRow.published_at).is_(None))
        .with_for_update(skip_locked=True, of=OutboxRow)
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


def waiting(session: Session, *, most: int = MOST_COUNTED) -> int:
    """Return how many rows wait to be sent, counted up to ``most``: it is asked all the time."""
    rows = select(OutboxRow.outbox_id).where(col(OutboxRow.published_at).is_(None)).limit(most)
    return session.exec(select(func.count()).select_from(rows.subquery())).one()


def forget_sent(session: Session, before: datetime, *, most: int) -> int:
    """Delete at most ``most`` rows that were sent before ``before`` and return how many there were."""
    old = (
        select(OutboxRow.outbox_id)
        .where(col(OutboxRow.published_at) < before)
        .order_by(col(OutboxRow.published_at))
        .limit(most)
    )
    statement = (
        delete(OutboxRow)
        .where(col(OutboxRow.outbox_id).in_(old))
        .execution_options(synchronize_session=False)
    )
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]  # of a DELETE
