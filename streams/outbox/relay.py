"""The relay sends what transactions left in the outbox.

Rows of one (topic, key) leave in the order they were written: a relay takes only the oldest waiting row of
each, and takes it locked (``SKIP LOCKED`` on PostgreSQL), so any number of relays run without a leader. A
crash between sending and marking sends a row twice; readers recognise it by the event id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.storage.session import transaction
from streams.broker.records import OutgoingRecord, RecordSender
from streams.outbox import rows as outbox_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from streams.outbox.tables import OutboxRow


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
                rows = outbox_rows.oldest_of_each_key(session, self._batch_rows)
            self._send(rows)
            with transaction(self._engine) as session:
                outbox_rows.mark_sent(session, rows, now)
        else:
            with transaction(self._engine) as session:
                rows = outbox_rows.oldest_of_each_key(session, self._batch_rows)
                self._send(rows)
                outbox_rows.mark_sent(session, rows, now)
        return len(rows)

    def _send(self, rows: Sequence[OutboxRow]) -> None:
        if rows:
            self._sender.send_all([_outgoing(row) for row in rows])

    def waiting(self) -> int:
        """Return how many rows wait to be sent."""
        with transaction(self._engine) as session:
            return outbox_rows.waiting(session)

    def forget(self, before: datetime) -> int:
        """Delete rows that were sent before ``before`` and return how many there were."""
        with transaction(self._engine) as session:
            return outbox_rows.forget_sent(session, before)


def _outgoing(row: OutboxRow) -> OutgoingRecord:
    headers = [(name, text.encode()) for name, text in row.headers]
    return OutgoingRecord(row.topic, row.key, row.value, headers)
