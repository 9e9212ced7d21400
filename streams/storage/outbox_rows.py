"""Write to the outbox from inside the transaction whose effect is to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.storage.tables import OutboxRow

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
