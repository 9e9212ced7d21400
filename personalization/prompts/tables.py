"""Rows of prompt templates and of what was decided about them; no row holds anything of a single user."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Column, Float, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class PromptTemplateRow(SQLModel, table=True):
    """One version of a line's templates; nothing of it ever changes."""

    __tablename__: ClassVar[Any] = "prompt_templates"
    __table_args__ = (UniqueConstraint("line_ref", "number", name="uq_prompt_template_number"),)

    line_ref: str = Field(
        sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), primary_key=True)
    )
    version_id: str = Field(sa_column=Column(String(71), primary_key=True))
    number: int = Field(sa_column=Column(Integer, nullable=False))
    document: str = Field(sa_column=Column(Text, nullable=False))  # canonical JSON, as text
    key_id: str = Field(sa_column=_text(64))
    signature: str = Field(sa_column=_text(128))
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class PromptMoveRow(SQLModel, table=True):
    """One decision on what a line's prompts look like; the newest says how it stands."""

    __tablename__: ClassVar[Any] = "prompt_moves"
    __table_args__ = (
        CheckConstraint(
            "decision IN ('use', 'try', 'leave', 'roll_back', 'stop')", name="ck_prompt_move_decision"
        ),
    )

    line_ref: str = Field(
        sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), primary_key=True)
    )
    sequence: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    decision: str = Field(sa_column=_text(16))
    current: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    candidate: str | None = Field(default=None, sa_column=_text(71, nullable=True))
    candidate_percent: float = Field(default=0.0, sa_column=Column(Float, nullable=False))
    salt: str = Field(default="", sa_column=_text(64))
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
