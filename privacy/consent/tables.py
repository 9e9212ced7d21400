"""Rows of what users agreed to; a person appears as the tenant-keyed pseudonym only."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Boolean
from sqlmodel import Field, SQLModel

from privacy.policy import tables as _tenants  # noqa: F401  # their table is referred to
from privacy.storage.types import UtcDateTime


class ConsentRow(SQLModel, table=True):
    """What one user said last (by event time) about one purpose."""

    __tablename__: ClassVar[Any] = "consents"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    pseudonym: str = Field(primary_key=True, max_length=64)
    purpose: str = Field(primary_key=True, max_length=32)
    granted: bool = Field(sa_type=Boolean)
    notice_version: str = Field(max_length=100)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
