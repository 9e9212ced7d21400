"""Rows of requests to be erased and of what was done."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON
from sqlmodel import Field, SQLModel

from privacy.policy import tables as _tenants  # noqa: F401  # their table is referred to
from privacy.storage.types import UtcDateTime


class ErasureRow(SQLModel, table=True):
    """One request to erase a user: its state, its legal deadline and what it reached.

    Whose request it is belongs to its key, so that nobody's choice of an id decides about another's request.
    """

    __tablename__: ClassVar[Any] = "erasures"

    tenant_id: str = Field(primary_key=True, max_length=63, foreign_key="tenants.tenant_id")
    pseudonym: str = Field(primary_key=True, max_length=64)
    erasure_id: str = Field(primary_key=True, max_length=128)
    state: str = Field(max_length=16)
    requested_at: datetime = Field(sa_type=UtcDateTime)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    deadline_at: datetime = Field(sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    certificate: dict[str, Any] | None = Field(default=None, sa_type=JSON)
