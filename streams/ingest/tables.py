"""The table of what became of each event."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Index, LargeBinary, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


class ProcessedEventRow(SQLModel, table=True):
    """The fate of an event, by its identity (``streams.ingest.identity``); written as it is decided."""

    __tablename__: ClassVar[Any] = "processed_events"
    __table_args__ = (Index("ix_processed_events_at", "processed_at"),)

    event_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    processed_at: datetime = Field(sa_type=UtcDateTime)
    refused_origin: str | None = Field(default=None, sa_type=Text)  # None: it had its effect
    refusal: str | None = Field(default=None, sa_type=Text)  # reason code and detail, for the letter
