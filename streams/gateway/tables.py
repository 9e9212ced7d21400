"""The table of tokens that may ask through the gateway."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import LargeBinary
from sqlmodel import Field, SQLModel

from privacy.storage.types import UtcDateTime


class GatewayTokenRow(SQLModel, table=True):
    """A token of one tenant's program, by its SHA-256 (the token is 32 random bytes, shown once)."""

    __tablename__: ClassVar[Any] = "gateway_tokens"

    token_digest: bytes = Field(sa_type=LargeBinary, primary_key=True)
    tenant_id: str = Field(max_length=63, foreign_key="tenants.tenant_id")
    name: str = Field(max_length=200)
    rights: str = Field(max_length=63)  # words of ``streams.gateway.callers.Right``, with spaces between
    created_at: datetime = Field(sa_type=UtcDateTime)
    created_by: str = Field(max_length=200)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
