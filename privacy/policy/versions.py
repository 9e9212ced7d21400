"""Register tenants and keep every version of their policies, with who changed what, when and why.

Nothing here knows Kafka or HTTP. The caller opens the transaction (``privacy.storage.session.transaction``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from privacy.audit import trail as audit_trail
from privacy.errors import PolicyError, UnknownTenantError
from privacy.policy.tables import PolicyRow, TenantRow
from privacy.policy.values import TenantPrivacyPolicy, amended, checked_tenant_id
from privacy.storage.subjects import wanted_tenants

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.policy.ceilings import PolicyCeilings


@dataclass(frozen=True, kw_only=True)
class PolicyVersion:
    """One stored version of a tenant's policy."""

    tenant_id: str
    version: int
    policy: TenantPrivacyPolicy
    digest: str
    set_at: datetime
    set_by: str
    reason: str

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {
            "tenant": self.tenant_id,
            "version": self.version,
            "digest": self.digest,
            "set_at": self.set_at.isoformat(),
            "set_by": self.set_by,
            "reason": self.reason,
            "policy": self.policy.to_document(),
        }


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A registered tenant and its newest policy, if it has one."""

    tenant_id: str
    registered_at: datetime
    registered_by: str
    policy: PolicyVersion | None = None


def _version_of(row: PolicyRow) -> PolicyVersion:
    return PolicyVersion(
        tenant_id=row.tenant_id,
        version=row.version,
        policy=TenantPrivacyPolicy.from_document(row.document),
        digest=row.digest,
        set_at=row.set_at,
        set_by=row.set_by,
        reason=row.reason,
    )


def _checked_actor(actor: str) -> str:
    if not 0 < len(actor.strip()) <= 200:
        raise PolicyError(
            f"actor has {len(actor)} characters; allowed are 1 to 200, naming who makes the change"
        )
    return actor.strip()


def register_tenant(session: Session, tenant_id: str, *, actor: str, now: datetime) -> Tenant:
    """Register a tenant; it has no policy yet, so it is ingested and never trained.

    Raises:
        PolicyError: the id is no slug, it is taken, or no actor is named.
    """
    checked_tenant_id(tenant_id)
    actor = _checked_actor(actor)
    if session.get(TenantRow, tenant_id) is not None:
        raise PolicyError(
            f"tenant {tenant_id!r} is already registered; change its policy instead (`discreet tenants set`)"
        )
    row = TenantRow(tenant_id=tenant_id, registered_at=now, registered_by=actor)
    session.add(row)
    session.flush()
    audit_trail.append(session, tenant_id, actor=actor, action="tenant.registered", detail={}, now=now)
    return Tenant(tenant_id=tenant_id, registered_at=row.registered_at, registered_by=row.registered_by)


def set_policy(
    session: Session,
    tenant_id: str,
    changes: Mapping[str, Any],
    *,
    actor: str,
    reason: str,
    now: datetime,
    ceilings: PolicyCeilings | None = None,
) -> PolicyVersion:
    """Append the next version of a tenant's policy and audit the change.

    ``changes`` name fields of the newest version, or of the defaults when there is none yet (then
    ``declared_users`` is needed, and a schedule without ``first_at`` starts with the next period, not at
    once). A change that changes nothing returns the newest version.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: a value is outside its range, or actor or reason is missing.
        PolicyCeilingError: a value is above ``ceilings``, those of the platform.
    """
    actor = _checked_actor(actor)
    if not reason.strip():
        raise PolicyError("reason is empty; allowed is a sentence that says why the policy changes")
    # The tenant's row is locked so that two administrators cannot write the same version number.
    locked = session.exec(select(TenantRow).where(TenantRow.tenant_id == tenant_id).with_for_update()).first()
    if locked is None:
        raise _unknown(tenant_id)
    newest = current_policy(session, tenant_id)
    policy = amended(newest.policy if newest else None, changes)
    if newest is None and not _names_first_release(changes):
        first = policy.period_start(policy.period_index(now) + 1)
        policy = amended(policy, {"schedule.first_at": first})
    if newest is not None and policy == newest.policy:
        return newest
    if ceilings is not None:
        ceilings.check(policy)
    row = PolicyRow(
        tenant_id=tenant_id,
        version=newest.version + 1 if newest else 1,
        document=policy.to_stored(),
        digest=policy.digest(),
        set_at=now,
        set_by=actor,
        reason=reason.strip(),
    )
    locked.next_due_at = max(now, policy.schedule.first_at)  # soon: a slot may be due under the new policy
    locked.drift_due_at = locked.next_due_at if policy.drift.read else None
    session.add_all((row, locked))
    session.flush()
    before = newest.policy.to_document() if newest else {}
    after = policy.to_document()
    audit_trail.append(
        session,
        tenant_id,
        actor=actor,
        action="policy.set",
        detail={
            "version": row.version,
            "digest": row.digest,
            "reason": row.reason,
            "changed": {
                name: {"from": before.get(name), "to": value}
                for name, value in after.items()
                if before.get(name) != value
            },
        },
        now=now,
    )
    return _version_of(row)


def _names_first_release(changes: Mapping[str, Any]) -> bool:
    schedule = changes.get("schedule", {})
    return "schedule.first_at" in changes or not hasattr(schedule, "keys") or "first_at" in schedule


def _unknown(tenant_id: str) -> UnknownTenantError:
    return UnknownTenantError(
        f"tenant {tenant_id[:80]!r} is not registered; register it with `discreet tenants add`"
    )


def current_policy(session: Session, tenant_id: str) -> PolicyVersion | None:
    """Return the newest policy of a tenant; ``None`` when it has none or is not registered."""
    row = session.exec(
        select(PolicyRow)
        .where(PolicyRow.tenant_id == tenant_id)
        .order_by(col(PolicyRow.version).desc())
        .limit(1)
    ).first()
    return None if row is None else _version_of(row)


def newest_versions(session: Session, tenant_ids: Collection[str]) -> dict[str, int]:
    """Return the number of the newest policy of each tenant that has one."""
    return dict(
        session.exec(
            select(PolicyRow.tenant_id, func.max(PolicyRow.version))
            .where(col(PolicyRow.tenant_id).in_(tenant_ids))
            .group_by(PolicyRow.tenant_id)
        ).all()
    )


def declared_populations(session: Session, tenant_id: str) -> set[str]:
    """Return every population that any version of a tenant's policy named."""
    documents = session.exec(select(PolicyRow.document).where(PolicyRow.tenant_id == tenant_id))
    return {name for document in documents if (name := document.get("population"))}


def policy_history(session: Session, tenant_id: str) -> list[PolicyVersion]:
    """Return every version of a tenant's policy, oldest first.

    Raises:
        UnknownTenantError: no such tenant is registered.
    """
    if session.get(TenantRow, tenant_id) is None:
        raise _unknown(tenant_id)
    rows = session.exec(
        select(PolicyRow).where(PolicyRow.tenant_id == tenant_id).order_by(col(PolicyRow.version))
    )
    return [_version_of(row) for row in rows]


def tenant(session: Session, tenant_id: str) -> Tenant:
    """Return one tenant with its newest policy.

    Raises:
        UnknownTenantError: no such tenant is registered.
    """
    row = session.get(TenantRow, tenant_id)
    if row is None:
        raise _unknown(tenant_id)
    return Tenant(
        tenant_id=row.tenant_id,
        registered_at=row.registered_at,
        registered_by=row.registered_by,
        policy=current_policy(session, tenant_id),
    )


def list_tenants(session: Session) -> list[Tenant]:
    """Return all tenants by name, each with its newest policy, in two statements however many there are."""
    newest = (
        select(PolicyRow.tenant_id, func.max(PolicyRow.version).label("version"))
        .group_by(col(PolicyRow.tenant_id))
        .subquery()
    )
    rows = session.exec(
        select(PolicyRow).join(
            newest,
            (col(PolicyRow.tenant_id) == newest.c.tenant_id) & (col(PolicyRow.version) == newest.c.version),
        )
    )
    policies = {row.tenant_id: _version_of(row) for row in rows}
    tenants = session.exec(select(TenantRow).order_by(TenantRow.tenant_id))
    return [
        Tenant(
            tenant_id=row.tenant_id,
            registered_at=row.registered_at,
            registered_by=row.registered_by,
            policy=policies.get(row.tenant_id),
        )
        for row in tenants
    ]


def tenant_ids_after(session: Session, last: str, *, most: int) -> Sequence[str]:
    """Return the ids of the next ``most`` tenants by name, after ``last`` (empty: from the first)."""
    statement = select(TenantRow.tenant_id).where(TenantRow.tenant_id > last)
    return session.exec(statement.order_by(TenantRow.tenant_id).limit(most)).all()


def newest_version_numbers(session: Session, tenant_ids: Collection[str]) -> dict[str, int]:
    """Return the number of the newest policy of those of ``tenant_ids`` that are registered; 0 where there is none."""
    asked = wanted_tenants(session, tenant_ids)
    statement = (
        select(TenantRow.tenant_id, func.coalesce(func.max(PolicyRow.version), 0))
        .join(asked, col(TenantRow.tenant_id) == asked.c.tenant_id)
        .outerjoin(PolicyRow, col(PolicyRow.tenant_id) == TenantRow.tenant_id)
        .group_by(col(TenantRow.tenant_id))
    )
    return dict(session.exec(statement).all())


def newest_documents(
    session: Session, tenant_ids: Collection[str]
) -> Sequence[tuple[str, int, Mapping[str, Any]]]:
    """Return (tenant id, version, document) of the newest policy of each of ``tenant_ids`` that has one."""
    asked = wanted_tenants(session, tenant_ids)
    other = aliased(PolicyRow)
    newest = (
        select(func.max(other.version)).where(col(other.tenant_id) == asked.c.tenant_id).scalar_subquery()
    )
    statement = (
        select(PolicyRow.tenant_id, PolicyRow.version, PolicyRow.document)
        .join(asked, col(PolicyRow.tenant_id) == asked.c.tenant_id)
        .where(col(PolicyRow.version) == newest)
    )
    return session.exec(statement).all()


def registered_among(session: Session, tenant_ids: Collection[str]) -> set[str]:
    """Return which of these tenants are registered; one statement, however many are asked for."""
    asked = wanted_tenants(session, tenant_ids)
    return set(
        session.exec(select(TenantRow.tenant_id).join(asked, col(TenantRow.tenant_id) == asked.c.tenant_id))
    )


def lock_tenant(session: Session, tenant_id: str) -> None:
    """Lock the tenant until the transaction ends, so that two processes never make the same thing of it twice."""
    session.exec(select(TenantRow).where(TenantRow.tenant_id == tenant_id).with_for_update()).one()
