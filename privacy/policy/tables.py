"""Rows of tenants and of their policies; policies is append-only: triggers in the database refuse UPDATE and DELETE."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Index, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


class TenantRow(SQLModel, table=True):
    """A registered tenant; interactions of any other are refused."""

    __tablename__: ClassVar[Any] = "tenants"
    __table_args__ = (
        Index("ix_tenants_next_due", "next_due_at", "tenant_id"),
        Index("ix_tenants_drift_due", "drift_due_at", "tenant_id"),
    )

    tenant_id: str = Field(primary_key=True, max_length=63)
    registered_at: datetime = Field(sa_type=UtcDateTime)
    registered_by: str = Field(max_length=200)
    next_due_at: datetime | None = Field(
        default=None, sa_type=UtcDateTime
    )  # when its schedule is looked at next
    drift_due_at: datetime | None = Field(
        default=None, sa_type=UtcDateTime
    )  # when its readings of drift are; None: it has none


class PolicyRow(SQLModel, table=True):
    """One version of a tenant's policy, with who set it, when and why. Append-only."""

    __tablename__: ClassVar[Any] = "policies"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    document: dict[str, Any] = Field(sa_type=JSON)
    digest: str = Field(max_length=71)
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=200)
    reason: str = Field(sa_type=Text)
