"""Tokens of tenants' administrators: made, revoked and recognized; the database holds only their SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple

from sqlmodel import col, select, update

from privacy.audit import trail as audit_trail
from privacy.errors import PolicyError
from privacy.policy import versions as policies
from streams.storage.tables import OperatorTokenRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

TOKEN_BYTES = 32
_TOKEN = re.compile("[A-Za-z0-9_-]{43}")


class TokenHolder(NamedTuple):
    """Whose token it is."""

    name: str
    tenant_id: str


def new_token(session: Session, tenant_id: str, name: str, *, actor: str, now: datetime) -> str:
    """Make a token for an administrator of ``tenant_id`` and return it; it is shown this once.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: the name is empty or too long.
    """
    policies.tenant(session, tenant_id)
    if not 0 < len(name.strip()) <= 200:
        raise PolicyError(f"name has {len(name)} characters; allowed are 1 to 200, naming who uses the token")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    session.add(
        OperatorTokenRow(
            token_digest=token_digest(token),
            tenant_id=tenant_id,
            name=name.strip(),
            created_at=now,
            created_by=actor,
        )
    )
    audit_trail.append(
        session, tenant_id, actor=actor, action="token.created", detail={"name": name.strip()}, now=now
    )
    return token


def revoke_tokens(session: Session, tenant_id: str, name: str, *, actor: str, now: datetime) -> int:
    """Revoke every token of that name in the tenant and return how many there were."""
    statement = (
        update(OperatorTokenRow)
        .where(
            col(OperatorTokenRow.tenant_id) == tenant_id,
            col(OperatorTokenRow.name) == name,
            col(OperatorTokenRow.revoked_at).is_(None),
        )
        .values(revoked_at=now)
    )
    revoked = int(session.connection().execute(statement).rowcount)
    if revoked:
        audit_trail.append(
            session, tenant_id, actor=actor, action="token.revoked", detail={"name": name}, now=now
        )
    return revoked


def holder_of(session: Session, token: str) -> TokenHolder | None:
    """Return whose token this is; ``None`` for one that was never made or is revoked."""
    row = session.exec(
        select(OperatorTokenRow).where(
            OperatorTokenRow.token_digest == token_digest(token), col(OperatorTokenRow.revoked_at).is_(None)
        )
    ).one_or_none()
    return None if row is None else TokenHolder(row.name, row.tenant_id)


def is_token(text: str) -> bool:
    """Say whether ``text`` has the form of a token that ``new_token`` makes."""
    return _TOKEN.fullmatch(text) is not None


def token_digest(token: str) -> bytes:
    """Return the digest under which a token is kept and compared; of whatever bytes a header held."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
