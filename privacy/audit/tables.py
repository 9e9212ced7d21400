"""Rows of the trail of who did what; append-only: triggers in the database refuse UPDATE and DELETE."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


class AuditRow(SQLModel, table=True):
    """One record of an audit chain (one chain per tenant, one of the operator). Append-only, hash-chained."""

    __tablename__: ClassVar[Any] = "audit_trail"

    chain: str = Field(primary_key=True, max_length=63)
    sequence: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at: datetime = Field(sa_type=UtcDateTime)
    actor: str = Field(max_length=200)
    action: str = Field(max_length=64)
    detail: dict[str, Any] = Field(sa_type=JSON)
    previous_digest: str = Field(max_length=71)
    digest: str = Field(max_length=71)
