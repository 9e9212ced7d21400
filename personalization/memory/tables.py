"""Rows of what tenants approved: collections with their versions, and every version of every document."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
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


class MemoryVersionRow(SQLModel, table=True):
    """One version of a collection, as it was signed; nothing of it ever changes."""

    __tablename__: ClassVar[Any] = "memory_versions"

    tenant_id: str = Field(
        sa_column=Column(String(63), ForeignKey("tenants.tenant_id"), primary_key=True, nullable=False)
    )
    collection: str = Field(sa_column=_text(63, key=True))
    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    version_id: str = Field(sa_column=_text(71))
    domain: str = Field(sa_column=_text(63))
    documents: int = Field(sa_column=Column(Integer, nullable=False))
    decision: str = Field(sa_column=_text(16))
    restores: int | None = Field(
        default=None, sa_column=Column(Integer)
    )  # which one a roll-back went back to
    key_id: str = Field(sa_column=_text(64))
    signature: str = Field(sa_column=_text(128))
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class MemoryEntryRow(SQLModel, table=True):
    """From which version of a collection to which a document stands in it; so a version costs what it changes."""

    __tablename__: ClassVar[Any] = "memory_entries"
    __table_args__ = (Index("ix_memory_entries_ended", "tenant_id", "collection", "until"),)

    tenant_id: str = Field(sa_column=_text(63, key=True))
    collection: str = Field(sa_column=_text(63, key=True))
    document_id: str = Field(sa_column=_text(128, key=True))
    version: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    since: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    until: int | None = Field(default=None, sa_column=Column(Integer))  # the first version without it
    accepted: bool = Field(sa_column=Column(Boolean, nullable=False))
    leaf: str = Field(sa_column=_text(71))  # what of it the signature covers


class MemoryCandidateRow(SQLModel, table=True):
    """One decision about a collection's candidate; nothing of it ever changes, and the newest says how it stands."""

    __tablename__: ClassVar[Any] = "memory_candidates"
    __table_args__ = (
        CheckConstraint(
            "decision IN ('tried', 'removed', 'promoted', 'abandoned')", name="ck_memory_candidate_decision"
        ),
    )

    tenant_id: str = Field(
        sa_column=Column(String(63), ForeignKey("tenants.tenant_id"), primary_key=True, nullable=False)
    )
    collection: str = Field(sa_column=_text(63, key=True))
    sequence: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    decision: str = Field(sa_column=_text(16))
    number: int = Field(sa_column=Column(Integer, nullable=False))  # of what is tried, among the versions
    version_id: str = Field(sa_column=_text(71))  # of the documents that it changes
    documents: int = Field(sa_column=Column(Integer, nullable=False))
    percent: float = Field(sa_column=Column(Float, nullable=False))  # of the subjects
    salt: str = Field(sa_column=_text(64))  # of their draw
    key_id: str = Field(sa_column=_text(64))
    signature: str = Field(sa_column=_text(128))
    actor: str = Field(sa_column=_text(200))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class MemoryDocumentRow(SQLModel, table=True):
    """One version of a document; of one that was removed only its name, number and times are kept.

    One that a later version took the place of keeps its text, sealed, for a roll-back; nothing of it is found. One of a
    candidate is found for a share of the subjects.
    """

    __tablename__: ClassVar[Any] = "memory_documents"
    __table_args__ = (
        CheckConstraint(
            "state IN ('live', 'superseded', 'removed', 'candidate')", name="ck_memory_document_state"
        ),
        Index(
            "ix_memory_documents_live",
            "tenant_id",
            "collection",
            "document_id",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
        Index(
            "ix_memory_documents_candidate",
            "tenant_id",
            "collection",
            "document_id",
            unique=True,
            sqlite_where=text("state = 'candidate'"),
            postgresql_where=text("state = 'candidate'"),
        ),
    )

    tenant_id: str = Field(sa_column=_text(63, key=True))
    collection: str = Field(sa_column=_text(63, key=True))
    document_id: str = Field(sa_column=_text(128, key=True))
    version: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    state: str = Field(sa_column=_text(16))
    digest: str = Field(sa_column=_text(71))  # of title, source and text; empty where the text is gone
    salt: str | None = Field(
        default=None, sa_column=_text(32, nullable=True)
    )  # of its leaf; gone with the text
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
