"""Rows of choices among prompt templates; none holds anything of a single user, a count or a margin."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Column, Float, ForeignKey, Index, String, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, nullable: bool = False) -> Column[str]:
    return Column(String(length), nullable=nullable)


class PromptChoiceRow(SQLModel, table=True):
    """One choice of one line; see ``personalization.choices.values.ChoiceState`` for its life."""

    __tablename__: ClassVar[Any] = "prompt_choices"
    __table_args__ = (
        CheckConstraint(
            "state IN ('due', 'leased', 'done', 'declined', 'failed')", name="ck_prompt_choice_state"
        ),
        Index("ix_prompt_choices_state", "state", "due_at"),
        Index("ix_prompt_choices_line", "tenant_id", "domain", "asked_at"),
    )

    choice_id: str = Field(sa_column=Column(String(36), primary_key=True))
    tenant_id: str = Field(sa_column=_text(63))
    domain: str = Field(sa_column=_text(63))
    line_ref: str = Field(sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), nullable=False))
    candidates_json: str = Field(sa_column=Column(Text, nullable=False))  # digests, in the order asked for
    epsilon: float = Field(sa_column=Column(Float, nullable=False))
    percent: float = Field(sa_column=Column(Float, nullable=False))  # that tries what is chosen; 0: nobody
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    asked_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    state: str = Field(default="due", sa_column=_text(16))
    epoch: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))  # fencing token
    lease_owner: str | None = Field(default=None, sa_column=_text(128, nullable=True))
    lease_expires_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    due_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))  # once drawn: when it is told
    reservation_id: str | None = Field(default=None, sa_column=_text(64, nullable=True))
    terms_json: str | None = Field(default=None, sa_column=Column(Text))  # what it is frozen to
    drawn_json: str | None = Field(
        default=None, sa_column=Column(Text)
    )  # stored with its draw, told once done
    chosen: str | None = Field(default=None, sa_column=_text(71, nullable=True))  # the new version, once told
    outcome: str | None = Field(default=None, sa_column=_text(64, nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
