"""Rows of adapter lines and of their versions; no row holds anything of a single user."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class AdapterLineRow(SQLModel, table=True):
    """One adapter line: a (tenant, domain) and the pointer to what it serves."""

    __tablename__: ClassVar[Any] = "adapter_lines"
    __table_args__ = (UniqueConstraint("tenant_id", "domain", name="uq_adapter_line_tenant_domain"),)

    line_ref: str = Field(sa_column=Column(String(12), primary_key=True))
    tenant_id: str = Field(sa_column=_text(63))
    domain: str = Field(sa_column=_text(63))
    epoch: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))  # of the line's last event
    last_version: int = Field(default=0, sa_column=Column(Integer, nullable=False))  # never counts down
    rank: int | None = Field(default=None, sa_column=Column(Integer))  # fixed by the first published version
    current_version_id: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class AdapterVersionRow(SQLModel, table=True):
    """One registered version; everything but its state, its times and its reason is immutable."""

    __tablename__: ClassVar[Any] = "adapter_versions"
    __table_args__ = (
        UniqueConstraint("line_ref", "version", name="uq_adapter_version_number"),
        UniqueConstraint("served_name", name="uq_adapter_version_served_name"),
        CheckConstraint(
            "state IN ('candidate', 'published', 'superseded', 'rolled_back', 'withdrawn')",
            name="ck_adapter_version_state",
        ),
        Index("ix_adapter_versions_tenant", "tenant_id", "state"),
    )

    version_id: str = Field(sa_column=Column(String(71), primary_key=True))  # sha256: of the manifest
    line_ref: str = Field(sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), nullable=False))
    tenant_id: str = Field(sa_column=_text(63))
    domain: str = Field(sa_column=_text(63))
    version: int = Field(sa_column=Column(Integer, nullable=False))
    served_name: str = Field(sa_column=_text(63))
    state: str = Field(sa_column=_text(16))
    round_id: str = Field(
        sa_column=Column(String(36), ForeignKey("training_rounds.round_id"), nullable=False)
    )
    reservation_id: str = Field(sa_column=_text(64))
    ledger_entry_hash: str = Field(sa_column=_text(71))
    base_digest: str = Field(sa_column=_text(71))
    start_version_id: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    uri: str = Field(sa_column=Column(Text, nullable=False))
    manifest_json: str = Field(sa_column=Column(Text, nullable=False))  # canonical bytes, as text
    signature_json: str = Field(sa_column=Column(Text, nullable=False))
    published_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    left_at: datetime | None = Field(
        default=None, sa_column=Column(UtcDateTime)
    )  # superseded, left or withdrawn
    left_reason: str | None = Field(default=None, sa_column=Column(Text))
    left_by: str | None = Field(default=None, sa_column=_text(128, nullable=True))
