"""The tables of what became of each event, and of the slots that it lies in."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Index, LargeBinary, SmallInteger, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


class ProcessedEventRow(SQLModel, table=True):
    """The fate of an event, by its identity (``streams.ingest.identity``); written as it is decided.

    On PostgreSQL a partition for each slot (``streams.ingest.slots``), and no index over the time; on SQLite one table.
    """

    __tablename__: ClassVar[Any] = "processed_events"
    __table_args__ = (Index("ix_processed_events_at", "processed_at"),)

    event_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    slot: int = Field(
        default=0, sa_type=SmallInteger, primary_key=True, sa_column_kwargs={"server_default": "0"}
    )
    processed_at: datetime = Field(sa_type=UtcDateTime)
    refused_origin: str | None = Field(default=None, sa_type=Text)  # None: it had its effect
    refusal: str | None = Field(default=None, sa_type=Text)  # reason code and detail, for the letter


class FateSlotRow(SQLModel, table=True):
    """A slot of fates: empty, open (one is, and takes all new fates) or closed."""

    __tablename__: ClassVar[Any] = "fate_slots"

    slot: int = Field(sa_type=SmallInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    opened_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    closed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
