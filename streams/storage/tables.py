"""Tables of what servers said and of who may ask."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, LargeBinary, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


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


class ConsumedOffsetRow(SQLModel, table=True):
    """Up to where a partition has had its effects, written in the transaction of the effects; it never goes back."""

    __tablename__: ClassVar[Any] = "consumed_offsets"

    topic: str = Field(primary_key=True, max_length=249)
    partition: int = Field(primary_key=True)
    next_offset: int = Field(sa_type=BigInteger)
