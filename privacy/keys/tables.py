"""What the database itself keeps about keys: counters and marks. The keys lie in a store of their own (``store``)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import LargeBinary
from sqlmodel import Field, SQLModel

from privacy.policy import tables as _tenants  # noqa: F401  # their table is referred to
from privacy.storage.types import UtcDateTime


class TenantKeyRow(SQLModel, table=True):
    """What tells every process which of a tenant's keys in the key store to use, and when to forget what it cached.

    The wrapped keys themselves stood here once; ``discreet db upgrade`` moves them (``privacy.keys.moving``).
    """

    __tablename__: ClassVar[Any] = "tenant_keys"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    wrapped_pseudonym_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    wrapped_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    erasures: int  # how many users of the tenant were erased; tells caches when to forget users' keys
    generation: int = 1  # raised by each rotation of the tenant's keys; tells caches when to read them again
    pseudonyms: int = 1  # number of the newest pseudonym key
    renaming: bool = False  # some rows still carry pseudonyms of the key before the newest
    created_at: datetime = Field(sa_type=UtcDateTime)


class SubjectKeyRow(SQLModel, table=True):
    """The mark of an erased user, by which later interactions are refused.

    Users' wrapped keys stood here once; ``discreet db upgrade`` moves them (``privacy.keys.moving``).
    """

    __tablename__: ClassVar[Any] = "subject_keys"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    pseudonym: str = Field(primary_key=True, max_length=64)
    wrapped_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    destroyed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
