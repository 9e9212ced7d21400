"""Tokens of the gateway: made, revoked, listed and read; the database holds only their SHA-256."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from sqlmodel import col, select, update

from privacy.audit import trail as audit_trail
from privacy.errors import PolicyError
from privacy.policy import versions as policies
from streams.gateway.callers import Caller, Right
from streams.gateway.tables import GatewayTokenRow
from streams.storage.operator_tokens import token_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlmodel import Session

TOKEN_BYTES = 32
PREFIX = "dg-"  # so that a secret scanner can tell what it found


def new_gateway_token(
    session: Session, tenant_id: str, name: str, *, rights: Collection[Right], actor: str, now: datetime
) -> str:
    """Make a token for a program of ``tenant_id`` and return it; it is shown this once.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: the name is empty or too long, or no right is given.
    """
    policies.tenant(session, tenant_id)
    if not 0 < len(name.strip()) <= 200:
        raise PolicyError(f"name has {len(name)} characters; allowed are 1 to 200, naming who uses the token")
    if not rights:
        raise PolicyError(f"a token without rights is of no use; allowed are {', '.join(Right)}")
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    kept = sorted(set(rights))
    session.add(
        GatewayTokenRow(
            token_digest=token_digest(token),
            tenant_id=tenant_id,
            name=name.strip(),
            rights=" ".join(kept),
            created_at=now,
            created_by=actor,
        )
    )
    detail = {"name": name.strip(), "rights": list(kept)}
    audit_trail.append(
        session, tenant_id, actor=actor, action="gateway_token.created", detail=detail, now=now
    )
    return token


def revoke_gateway_tokens(session: Session, tenant_id: str, name: str, *, actor: str, now: datetime) -> int:
    """Revoke every token of that name in the tenant and return how many there were."""
    statement = (
        update(GatewayTokenRow)
        .where(
            col(GatewayTokenRow.tenant_id) == tenant_id,
            col(GatewayTokenRow.name) == name,
            col(GatewayTokenRow.revoked_at).is_(None),
        )
        .values(revoked_at=now)
    )
    revoked = int(session.connection().execute(statement).rowcount)
    if revoked:
        audit_trail.append(
            session, tenant_id, actor=actor, action="gateway_token.revoked", detail={"name": name}, now=now
        )
    return revoked


def list_gateway_tokens(session: Session, tenant_id: str | None = None) -> Sequence[GatewayTokenRow]:
    """Return the tokens that are in force, of one tenant or of all, by tenant and name."""
    query = select(GatewayTokenRow).where(col(GatewayTokenRow.revoked_at).is_(None))
    if tenant_id is not None:
        query = query.where(GatewayTokenRow.tenant_id == tenant_id)
    return session.exec(query.order_by(col(GatewayTokenRow.tenant_id), col(GatewayTokenRow.name))).all()


def callers_by_digest(session: Session) -> dict[bytes, Caller]:
    """Return whose each token in force is, by the token's digest."""
    known = {right.value: right for right in Right}
    return {
        bytes(row.token_digest): Caller(
            tenant_id=row.tenant_id,
            name=row.name,
            rights=frozenset(known[word] for word in row.rights.split() if word in known),
        )
        for row in list_gateway_tokens(session)
    }
