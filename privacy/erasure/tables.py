"""Rows of requests to be erased and of what was done."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Index
from sqlmodel import Field, SQLModel

from privacy.policy import tables as _tenants  # noqa: F401  # their table is referred to
from privacy.storage.types import UtcDateTime


class ErasureRow(SQLModel, table=True):
    """One request to erase a user: its state, its legal deadline and what it reached."""

    __tablename__: ClassVar[Any] = "erasures"
    __table_args__ = (Index("ix_erasures_subject", "tenant_id", "pseudonym"),)

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    erasure_id: str = Field(primary_key=True, max_length=128)
    pseudonym: str = Field(max_length=64)
    state: str = Field(max_length=16)
    requested_at: datetime = Field(sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    deadline_at: datetime = Field(sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    certificate: dict[str, Any] | None = Field(default=None, sa_type=JSON)
