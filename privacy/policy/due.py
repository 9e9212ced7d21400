"""When each tenant's schedule must be looked at next: an indexed instant, so that a tick reads no other policy.

The instant is only a hint of when to look: what is due is decided from the policy and the public clock. It is set with
every policy, and moved by who looked.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import bindparam, update
from sqlmodel import col, select

from privacy.policy.tables import TenantRow
from privacy.policy.values import TenantPrivacyPolicy
from privacy.policy.versions import newest_documents
from privacy.storage.subjects import wanted_tenants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Table
    from sqlmodel import Session

_TABLE: Table = TenantRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes


class Look(StrEnum):
    """What is looked for at an instant of its own; the column that holds it."""

    ROUNDS = "next_due_at"
    DRIFT = "drift_due_at"


class DueTenant(NamedTuple):
    """A tenant to look at.

    Attributes:
        tenant_id: whose.
        due_at: the instant that had come.
        policy: its newest policy; ``None``: it has none.
    """

    tenant_id: str
    due_at: datetime
    policy: TenantPrivacyPolicy | None


def due_tenants(
    session: Session, now: datetime, *, most: int, look: Look = Look.ROUNDS
) -> Sequence[DueTenant]:
    """Return the tenants whose instant has come, those that wait longest first, with their newest policies."""
    found = session.exec(due_query(now, most, look)).all()
    if not found:
        return []
    read: dict[bytes, TenantPrivacyPolicy] = {}  # many tenants have the same policy
    policies: dict[str, TenantPrivacyPolicy] = {}
    for tenant_id, _, document in newest_documents(session, [tenant_id for tenant_id, _ in found]):
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        if text not in read:
            read[text] = TenantPrivacyPolicy.from_document(document)
        policies[tenant_id] = read[text]
    return [DueTenant(tenant_id, due_at, policies.get(tenant_id)) for tenant_id, due_at in found]


def due_query(now: datetime, most: int, look: Look = Look.ROUNDS) -> Any:
    """Return the SELECT of (tenant id, instant) of those whose instant has come; it must use the index."""
    at = _TABLE.c[look.value]
    return select(TenantRow.tenant_id, at).where(at <= now).order_by(at, col(TenantRow.tenant_id)).limit(most)


def look_again(
    session: Session, looked_at: Mapping[DueTenant, datetime | None], look: Look = Look.ROUNDS
) -> None:
    """Set when each tenant is looked at next; ``None``: once it has a policy.

    A tenant whose policy is being set, or that somebody else looked at, is left alone. Nobody is waited for, so that
    the caller may hold any locks.
    """
    if not looked_at:
        return
    asked = wanted_tenants(session, [due.tenant_id for due in looked_at])
    free = set(
        session.exec(
            select(TenantRow.tenant_id)
            .join(asked, col(TenantRow.tenant_id) == asked.c.tenant_id)
            .with_for_update(key_share=True, skip_locked=True, of=TenantRow)
        )
    )
    moved = [
        {"tenant": due.tenant_id, "seen": due.due_at, "next": at}
        for due, at in looked_at.items()
        if due.tenant_id in free
    ]
    if moved:
        session.connection().execute(
            update(_TABLE)
            .where(_TABLE.c.tenant_id == bindparam("tenant"), _TABLE.c[look.value] == bindparam("seen"))
            .values({look.value: bindparam("next")}),
            moved,
        )
