"""Rows of rollouts and of guard readings; no row holds anything of a single user."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Column, Float, ForeignKey, Index, Integer, String, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class RolloutRow(SQLModel, table=True):
    """Where the rollout of one line stands; a line that never had a candidate, mode or flag has no row."""

    __tablename__: ClassVar[Any] = "rollouts"
    __table_args__ = (
        CheckConstraint(
            "stage IN ('none', 'candidate', 'canary', 'held', 'promoted', 'superseded', 'rolled_back', 'withdrawn')",
            name="ck_rollout_stage",
        ),
        Index("ix_rollouts_look_at", "look_at", "line_ref"),
    )

    line_ref: str = Field(
        sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), primary_key=True)
    )
    tenant_id: str = Field(sa_column=_text(63))
    stage: str = Field(sa_column=_text(16))
    step: int = Field(sa_column=Column(Integer, nullable=False))
    candidate_version_id: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    checks_passed: bool = True  # of the candidate's public checks, as its manifest says
    salt: str = Field(sa_column=_text(64))
    entered_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    mode: str = Field(sa_column=_text(16))
    flag: str = Field(sa_column=_text(16))
    plan_json: str = Field(sa_column=Column(Text, nullable=False))
    verdict: str = Field(default="none", sa_column=_text(16))  # of the charged comparison
    look_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))  # None: nothing can happen
    # How it stood until ``entered_at``, which may be a slot that has not come; ``None``: nothing was decided before.
    before_json: str | None = Field(default=None, sa_column=Column(Text))


class GuardReadingRow(SQLModel, table=True):
    """The newest value of one guard metric of one candidate."""

    __tablename__: ClassVar[Any] = "rollout_guard_readings"

    version_id: str = Field(sa_column=Column(String(71), primary_key=True))
    name: str = Field(sa_column=Column(String(63), primary_key=True))
    value: float = Field(sa_column=Column(Float, nullable=False))
    measured_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
