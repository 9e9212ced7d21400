"""Tokens of the operator API: made, listed, revoked and recognized; the database holds only their SHA-256.

A token reaches one tenant or the whole platform, does what its role allows, and ends: nobody has to remember to take it
back. One that reaches the platform is made where the database can be reached anyway, on the command line.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlmodel import col, or_, select, update

from privacy.audit import trail as audit_trail
from privacy.audit.records import OPERATOR_CHAIN
from privacy.errors import PolicyError
from privacy.policy import versions as policies
from streams.storage.tables import OperatorTokenRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile("[A-Za-z0-9_-]{43}")
ID_CHARACTERS: Final = 12
DEFAULT_DAYS: Final = 90
MOST_DAYS: Final = 366


class Role(StrEnum):
    """What a token allows."""

    READER = "reader"  # to read, in its tenant or on the whole platform
    ADMINISTRATOR = "administrator"  # to change its tenant's policy too, within the platform's ceilings
    OPERATOR = "operator"  # everything, of every tenant
    SERVER = "server"  # to tell what is measured of servers, for one tenant or for all; and to read


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What is known of a token, but for the token itself.

    Attributes:
        token_id: names it; the beginning of its digest.
        tenant_id: the tenant that it reaches; ``None``: the platform.
        name: who uses it.
        role: what it allows.
        created_at: when it was made.
        created_by: by whom.
        expires_at: when it ends; ``None`` for tokens from before they ended.
        revoked_at: when it was taken back.
    """

    token_id: str
    tenant_id: str | None
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None

    def opens(self, now: datetime) -> bool:
        """Say whether it is still good."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {
            "id": self.token_id,
            "tenant": self.tenant_id,
            "name": self.name,
            "role": self.role.value,
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "revoked_at": None if self.revoked_at is None else self.revoked_at.isoformat(),
        }


def new_token(
    session: Session,
    tenant_id: str | None,
    name: str,
    *,
    role: Role = Role.ADMINISTRATOR,
    days: int = DEFAULT_DAYS,
    actor: str,
    now: datetime,
) -> tuple[str, TokenFacts]:
    """Make a token and return it with what is known of it; it is shown this once.

    Args:
        session: inside the caller's transaction.
        tenant_id: the tenant that it reaches; ``None``: the platform.
        name: who uses it.
        role: what it allows; an administrator has a tenant, an operator has none.
        days: how long it is good.
        actor: who makes it.
        now: the clock.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: name, role or days are not allowed.
    """
    if tenant_id is not None:
        policies.tenant(session, tenant_id)
    if not 0 < len(name.strip()) <= 200:
        raise PolicyError(f"name has {len(name)} characters; allowed are 1 to 200, naming who uses the token")
    if not 1 <= days <= MOST_DAYS:
        raise PolicyError(f"days is {days}; allowed are 1 to {MOST_DAYS}")
    if role is (Role.ADMINISTRATOR if tenant_id is None else Role.OPERATOR):
        reach = "the whole platform" if tenant_id is None else "one tenant"
        allowed = "reader, server, operator" if tenant_id is None else "reader, server, administrator"
        raise PolicyError(f"role is {role.value}; allowed for a token that reaches {reach} are {allowed}")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    digest = token_digest(token)
    row = OperatorTokenRow(
        token_digest=digest,
        token_id=token_id_of(digest),
        tenant_id=tenant_id,
        name=name.strip(),
        role=role.value,
        created_at=now,
        created_by=actor,
        expires_at=now + timedelta(days=days),
    )
    session.add(row)
    facts = _facts(row)
    _audit(session, facts, "token.created", actor=actor, now=now)
    return token, facts


def revoke_tokens(session: Session, tenant_id: str | None, name: str, *, actor: str, now: datetime) -> int:
    """Revoke every token of that name or id in the tenant (``None``: on the platform); return how many there were."""
    rows = session.exec(
        select(OperatorTokenRow).where(
            _reaches(tenant_id),
            or_(col(OperatorTokenRow.name) == name, col(OperatorTokenRow.token_id) == name),
            col(OperatorTokenRow.revoked_at).is_(None),
        )
    ).all()
    return sum(_revoke(session, row, actor=actor, now=now) for row in rows)


def revoke_token(session: Session, token_id: str, *, actor: str, now: datetime) -> TokenFacts:
    """Revoke one token by its id, and return what is known of it; one that is revoked already stays as it is.

    Raises:
        PolicyError: there is none of that id.
    """
    row = session.exec(select(OperatorTokenRow).where(OperatorTokenRow.token_id == token_id)).one_or_none()
    if row is None:
        raise PolicyError(f"there is no token {token_id[:80]!r}; list them with `discreet tokens list`")
    _revoke(session, row, actor=actor, now=now)
    return _facts(row)


def list_tokens(
    session: Session, *, tenant_id: str | None = None, good_at: datetime | None = None
) -> list[TokenFacts]:
    """Return what is known of tokens, the newest first.

    Args:
        session: inside the caller's transaction.
        tenant_id: those that reach this tenant alone; ``None``: all.
        good_at: those that open something then; ``None``: those that ended and were revoked too.
    """
    query = select(OperatorTokenRow).order_by(
        col(OperatorTokenRow.created_at).desc(), col(OperatorTokenRow.token_id)
    )
    if tenant_id is not None:
        query = query.where(OperatorTokenRow.tenant_id == tenant_id)
    found = [_facts(row) for row in session.exec(query)]
    return found if good_at is None else [facts for facts in found if facts.opens(good_at)]


def holder_of(session: Session, token: str, now: datetime) -> TokenFacts | None:
    """Return whose token this is; ``None`` for one that was never made, has ended or is revoked."""
    row = session.get(OperatorTokenRow, token_digest(token))
    facts = None if row is None else _facts(row)
    return facts if facts is not None and facts.opens(now) else None


def is_token(text: str) -> bool:
    """Say whether ``text`` has the form of a token that ``new_token`` makes."""
    return _TOKEN.fullmatch(text) is not None


def token_digest(token: str) -> bytes:
    """Return the digest under which a token is kept and compared; of whatever bytes a header held."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def token_id_of(digest: bytes) -> str:
    """Return the id of the token that has this digest."""
    return digest.hex()[:ID_CHARACTERS]


def _reaches(tenant_id: str | None) -> Any:
    column = col(OperatorTokenRow.tenant_id)
    return column.is_(None) if tenant_id is None else column == tenant_id


def _revoke(session: Session, row: OperatorTokenRow, *, actor: str, now: datetime) -> int:
    statement = (
        update(OperatorTokenRow)
        .where(
            col(OperatorTokenRow.token_digest) == row.token_digest, col(OperatorTokenRow.revoked_at).is_(None)
        )
        .values(revoked_at=now)
    )
    revoked = int(session.connection().execute(statement).rowcount)
    session.refresh(row)
    if revoked:
        _audit(session, _facts(row), "token.revoked", actor=actor, now=now)
    return revoked


def _audit(session: Session, facts: TokenFacts, action: str, *, actor: str, now: datetime) -> None:
    detail = {"id": facts.token_id, "name": facts.name, "role": facts.role.value}
    chain = facts.tenant_id or OPERATOR_CHAIN
    audit_trail.append(session, chain, actor=actor, action=action, detail=detail, now=now)


def _facts(row: OperatorTokenRow) -> TokenFacts:
    return TokenFacts(
        token_id=row.token_id,
        tenant_id=row.tenant_id,
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
