"""Rows of what tenants approved: collections with how often they changed, and every version of every document."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    text,
)
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


def _text(length: int, *, key: bool = False, nullable: bool = False) -> Column[str]:
    return Column(String(length), primary_key=key, nullable=nullable)


class MemoryCollectionRow(SQLModel, table=True):
    """One collection of a tenant: a list of documents that changes as a whole."""

    __tablename__: ClassVar[Any] = "memory_collections"

    tenant_id: str = Field(
        sa_column=Column(String(63), ForeignKey("tenants.tenant_id"), primary_key=True, nullable=False)
    )
    collection: str = Field(sa_column=_text(63, key=True))
    domain: str = Field(sa_column=_text(63))  # whose questions it is looked up for; empty: every domain's
    version: int = Field(sa_column=Column(Integer, nullable=False))  # how often it changed
    changed_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class MemoryDocumentRow(SQLModel, table=True):
    """One version of a document; of one that is no longer live only its name, number and times are kept."""

    __tablename__: ClassVar[Any] = "memory_documents"
    __table_args__ = (
        CheckConstraint("state IN ('live', 'superseded', 'removed')", name="ck_memory_document_state"),
        Index(
            "ix_memory_documents_live",
            "tenant_id",
            "collection",
            "document_id",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
    )

    tenant_id: str = Field(sa_column=_text(63, key=True))
    collection: str = Field(sa_column=_text(63, key=True))
    document_id: str = Field(sa_column=_text(128, key=True))
    version: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    state: str = Field(sa_column=_text(16))
    digest: str = Field(sa_column=_text(71))  # of title, source and text; empty once it is no longer live
    approved_by: str = Field(sa_column=_text(200))
    added_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    valid_until: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    chunks: int = Field(sa_column=Column(Integer, nullable=False))
    marked: int = Field(sa_column=Column(Integer, nullable=False))  # of these, passages that look like orders
    accepted: bool = Field(sa_column=Column(Boolean, nullable=False))  # and are sent all the same
    sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary))  # title, source and passages
    vectors: bytes | None = Field(default=None, sa_column=Column(LargeBinary))  # of the passages, sealed
    embedder: str = Field(sa_column=_text(63))  # what made the vectors; empty where nothing did
