"""Rows of what waits to be anchored outside the database, and of how often the database was restored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Integer
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime

# SQLite counts up only a column that is exactly INTEGER.
_COUNTER = BigInteger().with_variant(Integer, "sqlite")


class AnchorDueRow(SQLModel, table=True):
    """A tenant of which something moved that must never go back; written in the transaction that moves it."""

    __tablename__: ClassVar[Any] = "anchor_due"

    due_id: int | None = Field(default=None, sa_type=_COUNTER, primary_key=True)
    tenant_id: str = Field(max_length=63)
    pseudonym: str | None = Field(default=None, max_length=64)  # of a user who was erased


class TimelineRow(SQLModel, table=True):
    """One life of this database: 0 from its first anchoring on, and one more for each restore since."""

    __tablename__: ClassVar[Any] = "database_timelines"

    timeline: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    began_at: datetime = Field(sa_type=UtcDateTime)
