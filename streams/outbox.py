"""The outbox: events written in the transaction of their cause, and the relay that sends them afterwards.

Rows of one (topic, key) leave in the order they were written: a relay takes only the oldest waiting row of
each, and takes it locked (``SKIP LOCKED`` on PostgreSQL), so any number of relays run without a leader. A
crash between sending and marking sends a row twice; readers recognise it by the event id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, update
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from personalization.announcements import DesiredChange
from privacy.storage.session import transaction
from streams.contracts.codec import encode, tombstone
from streams.contracts.envelope import new_envelope
from streams.contracts.topics import ADAPTER_STATE, TOPICS
from streams.dead_letters import OutgoingRecord, RecordSender
from streams.storage.outbox_rows import SOURCE, add_record
from streams.storage.tables import OutboxRow
from streams.tracing import traceparent_of
from streams.translate import adapter_event, adapter_state, wire_kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.announcements import AdapterLifecycleEvent

# Records whose key names a user are not kept once they are sent.
_PERSONAL_TOPICS = tuple(topic.name for topic in TOPICS if topic.holds_personal_data)


class OutboxAdapterEvents:
    """``AdapterEvents`` over the outbox: the event, and the state it brings about."""

    def append(self, session: Session, event: AdapterLifecycleEvent) -> None:
        """Add the event and, where it changes the desired state, the new state (or a tombstone)."""
        trace = traceparent_of(event.round_id)
        happened = new_envelope(
            event_id=event.event_id,
            source=SOURCE,
            event_type=wire_kind(event).event_type,
            time=event.occurred_at,
            subject=event.line_ref,
            traceparent=trace,
            sequence=event.epoch,
        )
        add_record(session, encode(adapter_event(event), happened), event.occurred_at)
        if event.desired_change is DesiredChange.CLEAR:
            withdrawal = tombstone(
                event.line_ref,
                event.epoch,
                event_id=f"{event.event_id}.state",
                source=SOURCE,
                time=event.occurred_at,
            )
            add_record(session, withdrawal, event.occurred_at)
        state = adapter_state(event)
        if state is None:
            return
        envelope = new_envelope(
            event_id=f"{event.event_id}.state",
            source=SOURCE,
            event_type=ADAPTER_STATE,
            time=event.occurred_at,
            subject=event.line_ref,
            traceparent=trace,
            sequence=event.epoch,
        )
        add_record(session, encode(state, envelope), event.occurred_at)


class OutboxRelay:
    """Sends waiting rows; safe to run in every worker."""

    def __init__(self, engine: Engine, sender: RecordSender, *, batch_rows: int) -> None:
        self._engine = engine
        self._sender = sender
        self._batch_rows = batch_rows

    def relay_once(self, now: datetime) -> int:
        """Send one batch, mark it, and return how many rows it had.

        Raises:
            StorageError: the database is away.
            BrokerUnavailableError: the broker did not confirm; the rows stay waiting.
        """
        if self._engine.dialect.name == "sqlite":
            # One machine, one relay: sending inside the transaction would hold the only write lock meanwhile.
            with transaction(self._engine) as session:
                rows = self._oldest_of_each_key(session)
            self._send(rows)
            with transaction(self._engine) as session:
                _mark(session, rows, now)
        else:
            with transaction(self._engine) as session:
                rows = self._oldest_of_each_key(session)
                self._send(rows)
                _mark(session, rows, now)
        return len(rows)

    def _send(self, rows: Sequence[OutboxRow]) -> None:
        if rows:
            self._sender.send_all([_outgoing(row) for row in rows])

    def waiting(self) -> int:
        """Return how many rows wait to be sent."""
        with transaction(self._engine) as session:
            return session.exec(
                select(func.count()).select_from(OutboxRow).where(col(OutboxRow.published_at).is_(None))
            ).one()

    def forget(self, before: datetime) -> int:
        """Delete rows that were sent before ``before`` and return how many there were."""
        with transaction(self._engine) as session:
            statement = delete(OutboxRow).where(col(OutboxRow.published_at) < before)
            return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]  # of a DELETE

    def _oldest_of_each_key(self, session: Session) -> Sequence[OutboxRow]:
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
            .limit(self._batch_rows)
            .with_for_update(skip_locked=True, of=OutboxRow)  # SQLite has one writer and ignores it
        )
        return session.exec(statement).all()


def _mark(session: Session, rows: Sequence[OutboxRow], now: datetime) -> None:
    if rows:
        ids = [row.outbox_id for row in rows]
        sent = col(OutboxRow.outbox_id).in_(ids)
        personal = col(OutboxRow.topic).in_(_PERSONAL_TOPICS)
        session.execute(delete(OutboxRow).where(sent, personal))
        session.execute(update(OutboxRow).where(sent).values(published_at=now))


def _outgoing(row: OutboxRow) -> OutgoingRecord:
    headers = [(name, text.encode()) for name, text in row.headers]
    return OutgoingRecord(row.topic, row.key, row.value, headers)
