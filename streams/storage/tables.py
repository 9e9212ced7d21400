"""Tables of what servers said, of who may ask, and of who does the periodic work."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, LargeBinary, Text, UniqueConstraint
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
    """A token of the operator API, by its SHA-256 (the token is 32 random bytes, shown once)."""

    __tablename__: ClassVar[Any] = "operator_tokens"
    __table_args__ = (UniqueConstraint("token_id", name="uq_operator_token_id"),)

    token_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    token_id: str = Field(max_length=12)  # the beginning of the digest, for people to name it by
    tenant_id: str | None = Field(
        default=None, max_length=63, foreign_key="tenants.tenant_id"
    )  # None: the platform
    name: str = Field(max_length=200)
    role: str = Field(max_length=16)
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class CompatibleRevisionRow(SQLModel, table=True):
    """A revision of the schema whose code works with the database as it is; ``migrations/env.py`` writes them."""

    __tablename__: ClassVar[Any] = "compatible_revisions"

    revision: str = Field(max_length=64, primary_key=True)


class ChoreLeaseRow(SQLModel, table=True):
    """Which worker does a piece of periodic work, and until when it may."""

    __tablename__: ClassVar[Any] = "chore_leases"

    chore: str = Field(max_length=63, primary_key=True)
    owner: str = Field(max_length=63)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class ConsumedOffsetRow(SQLModel, table=True):
    """Up to where a partition has had its effects, written in the transaction of the effects; it never goes back."""

    __tablename__: ClassVar[Any] = "consumed_offsets"

    topic: str = Field(primary_key=True, max_length=249)
    partition: int = Field(primary_key=True)
    next_offset: int = Field(sa_type=BigInteger)
