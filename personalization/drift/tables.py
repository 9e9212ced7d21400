"""Rows of drift readings; none holds anything of a single user."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class DriftReadingRow(SQLModel, table=True):
    """One reading of one line; see ``personalization.drift.values.ReadingState`` for its life."""

    __tablename__: ClassVar[Any] = "drift_readings"
    __table_args__ = (
        UniqueConstraint("tenant_id", "domain", "scheduled_for", name="uq_drift_reading_slot"),
        CheckConstraint(
            "state IN ('due', 'leased', 'done', 'declined', 'failed')", name="ck_drift_reading_state"
        ),
        Index("ix_drift_readings_state", "state", "due_at"),
    )

    reading_id: str = Field(sa_column=Column(String(36), primary_key=True))
    tenant_id: str = Field(sa_column=_text(63))
    domain: str = Field(sa_column=_text(63))
    line_ref: str = Field(sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), nullable=False))
    scheduled_for: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    state: str = Field(default="due", sa_column=_text(16))
    epoch: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))  # fencing token
    lease_owner: str | None = Field(default=None, sa_column=_text(128, nullable=True))
    lease_expires_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    due_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))  # once drawn: when it is told
    reservation_id: str | None = Field(default=None, sa_column=_text(64, nullable=True))
    terms_json: str | None = Field(default=None, sa_column=Column(Text))  # what it is frozen to
    histogram_json: str | None = Field(
        default=None, sa_column=Column(Text)
    )  # stored with its draw, told once done
    judgement_json: str | None = Field(default=None, sa_column=Column(Text))
    followed: str | None = Field(default=None, sa_column=_text(32, nullable=True))  # what an alarm led to
    outcome: str | None = Field(default=None, sa_column=_text(64, nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
