"""The tables of the key store, apart from those of the database, and what a row of them is as a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import Column, Index, Integer, LargeBinary, MetaData, String, Table

from privacy.storage.types import UtcDateTime

if TYPE_CHECKING:
    from privacy.storage.subjects import Subject

FORM: Final = 1  # of the tables below
METADATA: Final = MetaData()
STORE = Table("key_store", METADATA, Column("form", Integer, primary_key=True, autoincrement=False))
TENANT_KEYS = Table(
    "tenant_keys",
    METADATA,
    Column("tenant_id", String(63), primary_key=True),
    Column("purpose", String(16), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
USER_KEYS = Table(
    "user_keys",
    METADATA,
    Column("tenant_id", String(63), primary_key=True),
    Column("pseudonym", String(64), primary_key=True),
    Column("wrapped_key", LargeBinary, nullable=True),
    Column("wrapped_by", LargeBinary, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("destroyed_at", UtcDateTime, nullable=True),
    Column("destroyed_for", LargeBinary, nullable=True),
    Index("ix_user_keys_wrapped_by", "tenant_id", "wrapped_by", "pseudonym"),
)
SECRETS = Table(
    "secrets",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
WRAPPING: Final = "wrapping"
PSEUDONYMS: Final = "pseudonyms"


class TenantKey(NamedTuple):
    """A tenant's key as it is stored.

    Attributes:
        tenant_id: whose.
        purpose: ``WRAPPING`` (of users' keys) or ``PSEUDONYMS``.
        number: 1 for the tenant's first of that purpose, and so on.
        wrapped: by the master key.
    """

    tenant_id: str
    purpose: str
    number: int
    wrapped: bytes


class UserKey(NamedTuple):
    """A user's key as it is stored.

    Attributes:
        subject: whose.
        wrapped: by a key of the tenant; ``None`` of a tombstone.
        wrapped_by: name of that key.
    """

    subject: Subject
    wrapped: bytes | None
    wrapped_by: bytes | None
