"""Rows of what a meta start holds of whom."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    String,
)
from sqlmodel import Field, SQLModel


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class MetaContributionRow(SQLModel, table=True):
    """One released adapter that a meta start was computed from; kept when either is withdrawn."""

    __tablename__: ClassVar[Any] = "meta_contributions"
    __table_args__ = (Index("ix_meta_contribution_tenant", "tenant_id"),)

    version_id: str = Field(
        sa_column=Column(String(71), ForeignKey("adapter_versions.version_id"), primary_key=True)
    )
    contributor_id: str = Field(
        sa_column=Column(String(71), ForeignKey("adapter_versions.version_id"), primary_key=True)
    )
    tenant_id: str = Field(sa_column=_text(63))
    weight: float = Field(sa_column=Column(Float, nullable=False))
