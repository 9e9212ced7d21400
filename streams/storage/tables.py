"""Tables of the edges: which events were processed, which wait to leave, what servers said, who may ask."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime

# SQLite counts up only a column that is exactly INTEGER.
_COUNTER = BigInteger().with_variant(Integer, "sqlite")


class ProcessedEventRow(SQLModel, table=True):
    """The fate of an event, by its identity (``streams.ingest.identity``); written as it is decided."""

    __tablename__: ClassVar[Any] = "processed_events"
    __table_args__ = (Index("ix_processed_events_at", "processed_at"),)

    event_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    processed_at: datetime = Field(sa_type=UtcDateTime)
    refused_origin: str | None = Field(default=None, sa_type=Text)  # None: it had its effect
    refusal: str | None = Field(default=None, sa_type=Text)  # reason code and detail, for the letter


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
    created_at: datetime = Field(sa_type=UtcDateTime)
    published_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ServingAckRow(SQLModel, table=True):
    """What one server said last about one adapter version."""

    __tablename__: ClassVar[Any] = "serving_acks"
    __table_args__ = (Index("ix_serving_acks_line", "line_ref"),)

    served_name: str = Field(primary_key=True, max_length=63)
    server_id: str = Field(primary_key=True, max_length=128)
    line_ref: str = Field(max_length=128)
    version_id: str = Field(max_length=71)
    engine: str = Field(max_length=63)
    status: str = Field(max_length=16)
    epoch: int = Field(sa_type=BigInteger)
    reason: str | None = Field(default=None, sa_type=Text)
    probe_effect: float | None = None
    occurred_at: datetime = Field(sa_type=UtcDateTime)


class OperatorTokenRow(SQLModel, table=True):
    """A tenant administrator's token, by its SHA-256 (the token is 32 random bytes, shown once)."""

    __tablename__: ClassVar[Any] = "operator_tokens"

    token_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    tenant_id: str = Field(max_length=63, foreign_key="tenants.tenant_id")
    name: str = Field(max_length=200)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
