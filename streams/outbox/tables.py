"""The table of records that wait to leave."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime

# SQLite counts up only a column that is exactly INTEGER.
_COUNTER = BigInteger().with_variant(Integer, "sqlite")


class OutboxRow(SQLModel, table=True):
    """A record that a transaction wants sent; the relay sends the oldest of each (topic, key) first."""

    __tablename__: ClassVar[Any] = "outbox"
    __table_args__ = (
        Index("ix_outbox_waiting", "published_at", "outbox_id"),
        Index("ix_outbox_key", "topic", "key", "outbox_id"),
    )

    outbox_id: int | None = Field(default=None, sa_type=_COUNTER, primary_key=True)
    topic: str = Field(max_length=249)
    key: bytes = Field(sa_type=LargeBinary)
    value: bytes | None = Field(default=None, sa_type=LargeBinary)  # None is a tombstone
    headers: list[list[str]] = Field(sa_type=JSON)  # (name, text) pairs
    created_at: datetime = Field(sa_type=UtcDateTime)  # it leaves not before; 1970: at once
    published_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
