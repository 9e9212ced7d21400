"""Opening, leasing and closing training rounds in SQL.

On PostgreSQL a trainer passes over rounds that another one is taking (``SKIP LOCKED``); on SQLite every
transaction holds the write lock from its first read. A line has at most one leased round at a time.
"""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, delete, func, or_
from sqlmodel import col, select

from personalization.errors import LeaseLostError, RoundConflictError, RoundNotFoundError
from personalization.planning.plan import TrainingPlan
from personalization.registry import queries as registry
from personalization.registry.publishing import ZERO, Origin
from personalization.registry.tables import AdapterLineRow
from personalization.rounds.states import OWNER_SCHEDULE, Lease, OutcomeCode, RoundState
from personalization.rounds.tables import RoundRow, SealedSnapshotRow
from privacy.errors import PolicyError
from privacy.policy import versions as policies
from privacy.policy.due import due_tenants, look_again

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.policy.due import DueTenant
    from privacy.policy.values import TenantPrivacyPolicy

MOST_AT_ONCE: Final = 50  # tenants in one transaction of a tick
BLOCKED_PAUSE: Final = timedelta(seconds=30)  # until a line whose last round is still open is looked at again


def open_due_rounds(session: Session, now: datetime, *, most: int = MOST_AT_ONCE) -> tuple[str, ...]:
    """Open a round for every line whose schedule has come to a new slot; return the ids of the new rounds.

    Only the policy and the public clock decide; calling it twice opens nothing twice. A line whose last
    round is still open gets no second one, and is looked at again after ``BLOCKED_PAUSE``.

    Args:
        session: inside the caller's transaction.
        now: the public clock.
        most: tenants that are looked at in one call; the others are next.
    """
    opened: list[str] = []
    next_looks: dict[DueTenant, datetime | None] = {}
    for due in due_tenants(session, now, most=most):
        index = None if due.policy is None else due.policy.schedule.due_index(now)
        if due.policy is None or index is None:
            next_looks[due] = None if due.policy is None else due.policy.schedule.first_at
            continue
        slot, following = due.policy.schedule.due_at(index), due.policy.schedule.due_at(index + 1)
        lines = [_due_line(session, due.tenant_id, domain, slot, now) for domain in due.policy.domains]
        for line in lines:
            if isinstance(line, AdapterLineRow):
                row = _new_round(
                    session, line, due.policy, opened_by=OWNER_SCHEDULE, now=now, scheduled_for=slot
                )
                opened.append(row.round_id)
        blocked = _Line.BLOCKED in lines
        next_looks[due] = min(following, now + BLOCKED_PAUSE) if blocked else following
    look_again(session, next_looks)
    return tuple(opened)


class _Line(Enum):
    """Why a line gets no round."""

    SETTLED = "the slot has its round"
    BLOCKED = "its last round is still open"


def _due_line(
    session: Session, tenant_id: str, domain: str, slot: datetime, now: datetime
) -> AdapterLineRow | _Line:
    """Return the line, locked, if it gets a round for ``slot``; locked only then."""
    refused = _refused(session, tenant_id, domain, slot)
    if refused is not None:
        return refused
    line = _locked_line(session, tenant_id, domain, now)
    return _refused(session, tenant_id, domain, slot) or line  # another scheduler may have been faster


def _refused(session: Session, tenant_id: str, domain: str, slot: datetime) -> _Line | None:
    if _slot_taken(session, tenant_id, domain, slot):
        return _Line.SETTLED
    return None if _open_round_of(session, tenant_id, domain) is None else _Line.BLOCKED


def open_round(session: Session, tenant_id: str, domain: str, *, actor: str, now: datetime) -> RoundRow:
    """Open one round by hand, due at once.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: it has no policy, or its policy has no such domain.
        RoundConflictError: the line already has a round that is due or leased.
    """
    version = policies.tenant(session, tenant_id).policy
    if version is None:
        raise PolicyError(f"tenant {tenant_id!r} has no privacy policy and is never trained; set one first")
    policy = version.policy
    if domain not in policy.domains:
        raise PolicyError(
            f"domain {domain!r} is not in the tenant's policy; allowed are {', '.join(policy.domains)}"
        )
    line = _locked_line(session, tenant_id, domain, now)
    if _open_round_of(session, tenant_id, domain) is not None:
        raise RoundConflictError(
            f"tenant {tenant_id!r} already has an open round for domain {domain!r}; wait until it is closed"
        )
    return _new_round(session, line, policy, opened_by=actor, now=now, scheduled_for=None)


def bring_forward(session: Session, tenant_id: str, domain: str, *, actor: str, at: datetime) -> str | None:
    """Open the line's next scheduled round at ``at`` instead of at its slot, and return its id.

    It is that slot's round, so there is none at the slot itself, and no more rounds in all than the policy plans.

    Args:
        session: inside the caller's transaction.
        tenant_id: whose line.
        domain: which line.
        actor: who asks.
        at: a public instant.

    Returns:
        None where a round is on its way already, or the policy has no such line any more.
    """
    version = policies.current_policy(session, tenant_id)
    if version is None or domain not in version.policy.domains:
        return None
    line = _locked_line(session, tenant_id, domain, at)
    index = version.policy.schedule.due_index(at)
    slot = version.policy.schedule.due_at(0 if index is None else index + 1)
    if _refused(session, tenant_id, domain, slot) is not None:
        return None
    return _new_round(session, line, version.policy, opened_by=actor, now=at, scheduled_for=slot).round_id


def lease_round(session: Session, owner: str, now: datetime, ttl: timedelta) -> Lease | None:
    """Take the oldest round that is due or whose lease ran out, until ``now + ttl``; None if there is none.

    The round's epoch grows by one: whoever held it before can write nothing any more. What may be done with
    a round that ran out of its lease is decided from the ledger (``TrainingRounds.prepare``).
    """
    free = and_(col(RoundRow.state) == RoundState.DUE.value, col(RoundRow.due_at) <= now)
    ran_out = and_(col(RoundRow.state) == RoundState.LEASED.value, col(RoundRow.lease_expires_at) <= now)
    row = session.exec(
        select(RoundRow)
        .where(or_(free, ran_out))
        .order_by(col(RoundRow.due_at), col(RoundRow.round_id))
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        return None
    row.state = RoundState.LEASED.value
    row.epoch += 1
    row.lease_owner = owner
    row.lease_expires_at = now + ttl
    session.add(row)
    session.flush()
    return Lease(
        round_id=row.round_id,
        tenant_id=row.tenant_id,
        domain=row.domain,
        line_ref=row.line_ref,
        period_index=row.period_index,
        owner=owner,
        epoch=row.epoch,
        expires_at=row.lease_expires_at,
    )


def renew_lease(session: Session, lease: Lease, now: datetime, ttl: timedelta) -> None:
    """Move the lease's end to ``now + ttl``.

    Raises:
        LeaseLostError: the round has a higher epoch, is closed, or the lease already ran out.
    """
    row = hold_round(session, lease, now)
    row.lease_expires_at = now + ttl
    session.add(row)


def hold_round(session: Session, lease: Lease, now: datetime) -> RoundRow:
    """Return the leased round, locked; every write of a trainer goes through here first.

    Raises:
        LeaseLostError: the lease is not this trainer's any more.
    """
    row = lock_round(session, lease.round_id)
    held = (
        row.state == RoundState.LEASED.value and row.epoch == lease.epoch and row.lease_owner == lease.owner
    )
    if not held or row.lease_expires_at is None or row.lease_expires_at <= now:
        raise LeaseLostError(
            f"the lease of round {lease.round_id} with epoch {lease.epoch} was lost; nothing was written"
        )
    return row


def lock_round(session: Session, round_id: str) -> RoundRow:
    """Return a round, locked until the transaction ends.

    Raises:
        RoundNotFoundError: no such round.
    """
    row = session.exec(
        select(RoundRow)
        .where(RoundRow.round_id == round_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        raise RoundNotFoundError(f"no round {round_id!r} exists; list the rounds and copy its id")
    return row


def close_round(
    session: Session, row: RoundRow, state: RoundState, code: OutcomeCode, outcome: str, *, now: datetime
) -> None:
    """Close a held round for good; seed and sealed snapshot are destroyed, so no draw can be repeated afterwards."""
    row.state = state.value
    row.outcome_code = code.value
    row.outcome = outcome
    row.closed_at = now
    row.lease_owner = None
    row.lease_expires_at = None
    row.wrapped_seed = None
    session.add(row)
    session.execute(delete(SealedSnapshotRow).where(col(SealedSnapshotRow.round_id) == row.round_id))


def find_round(session: Session, round_id: str) -> RoundRow | None:
    """Return a round, ``None`` where there is none of that id; nothing is locked."""
    return session.get(RoundRow, round_id)


def open_among(session: Session, round_ids: Collection[str]) -> set[str]:
    """Return those of ``round_ids`` that are open."""
    still_open = [state.value for state in RoundState if state.open]
    return set(
        session.exec(
            select(RoundRow.round_id).where(
                col(RoundRow.round_id).in_(round_ids), col(RoundRow.state).in_(still_open)
            )
        )
    )


def keep_sealed(session: Session, round_id: str, parts: Sequence[bytes]) -> None:
    """Store the parts of an open round's sealed snapshot, in their order."""
    session.add_all(
        SealedSnapshotRow(round_id=round_id, part=number, sealed=part) for number, part in enumerate(parts)
    )


def sealed_parts(session: Session, round_id: str) -> list[bytes]:
    """Return the parts of a round's sealed snapshot in their order; none when it has none or is closed."""
    rows = session.exec(
        select(SealedSnapshotRow)
        .where(col(SealedSnapshotRow.round_id) == round_id)
        .order_by(col(SealedSnapshotRow.part))
    )
    return [bytes(row.sealed) for row in rows]


def overdue_rounds(session: Session, now: datetime) -> Sequence[RoundRow]:
    """Return the open rounds whose public slot is over, locked; a round has none before it was reserved."""
    return session.exec(
        select(RoundRow)
        .where(
            col(RoundRow.state).in_([state.value for state in RoundState if state.open]),
            col(RoundRow.slot_ends_at) <= now,
        )
        .order_by(col(RoundRow.round_id))
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()


def origin_of(row: RoundRow) -> Origin:
    """Return what a version says of the round that it comes from."""
    return Origin(
        round_id=row.round_id,
        period_index=row.period_index,
        start=row.start or ZERO,
        start_version_id=row.start_version_id,
    )


def plan_of(session: Session, round_id: str) -> TrainingPlan | None:
    """Return the plan of a round, once it has one."""
    row = session.get(RoundRow, round_id)
    if row is None or row.terms_json is None:
        return None
    document = json.loads(row.terms_json)
    return TrainingPlan.from_document(document.get("plan", document))  # of frozen terms, or a plan alone


def list_rounds(
    session: Session, *, tenant_id: str | None = None, state: RoundState | None = None, limit: int = 100
) -> Sequence[RoundRow]:
    """Return the newest rounds first, of one tenant or (for the operator) of all."""
    query = select(RoundRow).order_by(col(RoundRow.opened_at).desc(), col(RoundRow.round_id)).limit(limit)
    if tenant_id is not None:
        query = query.where(RoundRow.tenant_id == tenant_id)
    if state is not None:
        query = query.where(RoundRow.state == state.value)
    return session.exec(query).all()


def _locked_line(session: Session, tenant_id: str, domain: str, now: datetime) -> AdapterLineRow:
    return registry.lock_line(session, registry.ensure_line(session, tenant_id, domain, now=now).line_ref)


def closed_round(
    session: Session,
    line: AdapterLineRow,
    *,
    period_index: int,
    actor: str,
    terms_json: str,
    sentence: str,
    now: datetime,
) -> RoundRow:
    """Record a round that trained nothing and read nothing private: a version made from released adapters alone."""
    row = _row_of(session, line, period_index, opened_by=actor, now=now)
    row.terms_json = terms_json
    close_round(session, row, RoundState.DONE, OutcomeCode.PUBLISHED, sentence, now=now)
    session.flush()
    return row


def _slot_taken(session: Session, tenant_id: str, domain: str, slot: datetime) -> bool:
    query = select(RoundRow.round_id).where(
        RoundRow.tenant_id == tenant_id, RoundRow.domain == domain, RoundRow.scheduled_for == slot
    )
    return session.exec(query).first() is not None


def _open_round_of(session: Session, tenant_id: str, domain: str) -> str | None:
    return session.exec(
        select(RoundRow.round_id).where(
            RoundRow.tenant_id == tenant_id,
            RoundRow.domain == domain,
            col(RoundRow.state).in_([state.value for state in RoundState if state.open]),
        )
    ).first()


def _new_round(
    session: Session,
    line: AdapterLineRow,
    policy: TenantPrivacyPolicy,
    *,
    opened_by: str,
    now: datetime,
    scheduled_for: datetime | None,
) -> RoundRow:
    row = _row_of(session, line, policy.period_index(now), opened_by=opened_by, now=now)
    row.scheduled_for = scheduled_for
    session.add(row)
    session.flush()
    return row


def _row_of(
    session: Session, line: AdapterLineRow, period_index: int, *, opened_by: str, now: datetime
) -> RoundRow:
    """Return the next round of a locked line in a period, not yet stored."""
    last = session.exec(
        select(func.max(RoundRow.sequence)).where(
            RoundRow.tenant_id == line.tenant_id,
            RoundRow.domain == line.domain,
            RoundRow.period_index == period_index,
        )
    ).one()
    return RoundRow(
        round_id=str(uuid.uuid4()),
        tenant_id=line.tenant_id,
        domain=line.domain,
        line_ref=line.line_ref,
        period_index=period_index,
        sequence=0 if last is None else last + 1,
        opened_by=opened_by,
        opened_at=now,
        due_at=now,
    )
