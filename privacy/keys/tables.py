"""Rows of wrapped keys: a tenant's own, and one for each of its users."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import LargeBinary
from sqlmodel import Field, SQLModel

from privacy.policy import tables as _tenants  # noqa: F401  # their table is referred to
from privacy.storage.types import UtcDateTime


class TenantKeyRow(SQLModel, table=True):
    """A tenant's keys, each wrapped by the master key."""

    __tablename__: ClassVar[Any] = "tenant_keys"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    wrapped_pseudonym_key: bytes = Field(sa_type=LargeBinary)
    wrapped_key: bytes = Field(sa_type=LargeBinary)
    erasures: int  # how many user keys of the tenant were destroyed; tells caches when to forget
    created_at: datetime = Field(sa_type=UtcDateTime)


class SubjectKeyRow(SQLModel, table=True):
    """One user's data key, wrapped by the tenant's key; an erasure sets ``wrapped_key`` to NULL for good."""

    __tablename__: ClassVar[Any] = "subject_keys"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    pseudonym: str = Field(primary_key=True, max_length=64)
    wrapped_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    destroyed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
