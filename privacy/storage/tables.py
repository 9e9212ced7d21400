"""Tables of the governance half: tenants, policies, keys, consents, erasures and the audit trail.

``policies`` and ``audit_trail`` are append-only: triggers in the database itself refuse UPDATE and DELETE
(migration ``0001_privacy``). No table holds a user id; a person appears as the tenant-keyed pseudonym only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Boolean, Index, LargeBinary, Text
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


class TenantRow(SQLModel, table=True):
    """A registered tenant; interactions of any other are refused."""

    __tablename__: ClassVar[Any] = "tenants"

    tenant_id: str = Field(primary_key=True, max_length=63)
    registered_at: datetime = Field(sa_type=UtcDateTime)
    registered_by: str = Field(max_length=200)


class PolicyRow(SQLModel, table=True):
    """One version of a tenant's policy, with who set it, when and why. Append-only."""

    __tablename__: ClassVar[Any] = "policies"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    document: dict[str, Any] = Field(sa_type=JSON)
    digest: str = Field(max_length=71)
    set_at: datetime = Field(sa_type=UtcDateTime)
    set_by: str = Field(max_length=200)
    reason: str = Field(sa_type=Text)


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


class ConsentRow(SQLModel, table=True):
    """What one user said last (by event time) about one purpose."""

    __tablename__: ClassVar[Any] = "consents"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    pseudonym: str = Field(primary_key=True, max_length=64)
    purpose: str = Field(primary_key=True, max_length=32)
    granted: bool = Field(sa_type=Boolean)
    notice_version: str = Field(max_length=100)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)


class ErasureRow(SQLModel, table=True):
    """One request to erase a user: its state, its legal deadline and what it reached."""

    __tablename__: ClassVar[Any] = "erasures"
    __table_args__ = (Index("ix_erasures_subject", "tenant_id", "pseudonym"),)

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    erasure_id: str = Field(primary_key=True, max_length=128)
    pseudonym: str = Field(max_length=64)
    state: str = Field(max_length=16)
    requested_at: datetime = Field(sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    deadline_at: datetime = Field(sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    certificate: dict[str, Any] | None = Field(default=None, sa_type=JSON)


class AuditRow(SQLModel, table=True):
    """One record of an audit chain (one chain per tenant, one of the operator). Append-only, hash-chained."""

    __tablename__: ClassVar[Any] = "audit_trail"

    chain: str = Field(primary_key=True, max_length=63)
    sequence: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at: datetime = Field(sa_type=UtcDateTime)
    actor: str = Field(max_length=200)
    action: str = Field(max_length=64)
    detail: dict[str, Any] = Field(sa_type=JSON)
    previous_digest: str = Field(max_length=71)
    digest: str = Field(max_length=71)
