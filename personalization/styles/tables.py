"""Rows of what people decided about style cards: one for each act, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, Column, Integer, String, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, key: bool = False) -> Column[str]:
    return Column(String(length), primary_key=key, nullable=False)


class StyleEditRow(SQLModel, table=True):
    """One act of a person on one line's style card. Of an entry that was struck only its handle is kept."""

    __tablename__: ClassVar[Any] = "style_edits"
    __table_args__ = (
        CheckConstraint("decision IN ('remove', 'pin', 'undo')", name="ck_style_edit_decision"),
    )

    tenant_id: str = Field(sa_column=_text(63, key=True))
    domain: str = Field(sa_column=_text(63, key=True))
    sequence: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    handle: str = Field(sa_column=_text(12))
    decision: str = Field(sa_column=_text(8))
    feature: str = Field(sa_column=_text(32))
    # of one that is fixed; of one that is struck nothing is kept
    entry: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
