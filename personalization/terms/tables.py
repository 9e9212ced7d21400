"""Rows of what people decided about terms; of users' words only released ones that a person kept are in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Column, ForeignKey, Integer, String, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int) -> Column[str]:
    return Column(String(length), nullable=False)


class TermListRow(SQLModel, table=True):
    """One version of a line's terms, with who decided it; nothing of it ever changes, and the newest holds."""

    __tablename__: ClassVar[Any] = "term_lists"

    line_ref: str = Field(
        sa_column=Column(String(12), ForeignKey("adapter_lines.line_ref"), primary_key=True)
    )
    sequence: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    version_id: str = Field(sa_column=_text(71))
    document: str = Field(sa_column=Column(Text, nullable=False))  # canonical JSON, as text
    key_id: str = Field(sa_column=_text(64))
    signature: str = Field(sa_column=_text(128))
    decision: str = Field(sa_column=_text(16))
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
