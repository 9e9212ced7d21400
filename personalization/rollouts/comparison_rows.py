"""Read and write comparisons; whoever changes one holds the lock of its line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from sqlmodel import col, select

from personalization.rollouts.evidence import Verdict
from personalization.rollouts.tables import ComparisonRow
from personalization.rollouts.values import ComparisonPlan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlmodel import Session

OPEN: Final = "open"
CLOSED: Final = "closed"


def find(session: Session, version_id: str | None, *, lock: bool = False) -> ComparisonRow | None:
    """Return the comparison of a candidate, as the database has it now; ``None`` where none was begun.

    Args:
        session: the caller's transaction.
        version_id: the candidate's.
        lock: hold it until the transaction ends, before any of its reactions (as ``wanted`` does).
    """
    if version_id is None:
        return None
    return session.get(ComparisonRow, version_id, populate_existing=True, with_for_update=lock or None)


def plan_of(comparison: ComparisonRow) -> ComparisonPlan:
    """Return the plan that a comparison is frozen to."""
    return ComparisonPlan.from_document(json.loads(comparison.plan_json))


def wanted(session: Session, tenant_ids: Collection[str]) -> Sequence[ComparisonRow]:
    """Return the open comparisons of these tenants; none of them is closed before this transaction ends."""
    if not tenant_ids:
        return []
    return session.exec(
        select(ComparisonRow)
        .where(col(ComparisonRow.tenant_id).in_(sorted(tenant_ids)), ComparisonRow.state == OPEN)
        .order_by(col(ComparisonRow.candidate_version_id))
        .with_for_update(read=True)
    ).all()


def open_of_line(session: Session, line_ref: str) -> Sequence[ComparisonRow]:
    """Return the open comparisons of a line, held until this transaction ends."""
    return session.exec(
        select(ComparisonRow)
        .where(ComparisonRow.line_ref == line_ref, ComparisonRow.state == OPEN)
        .order_by(col(ComparisonRow.begun_at))
        .with_for_update()
    ).all()


def closed_among(session: Session, version_ids: Collection[str]) -> Sequence[str]:
    """Return those of these candidates whose comparison is closed."""
    return session.exec(
        select(ComparisonRow.candidate_version_id).where(
            col(ComparisonRow.candidate_version_id).in_(sorted(version_ids)), ComparisonRow.state == CLOSED
        )
    ).all()


def close(session: Session, comparison: ComparisonRow, verdict: Verdict, now: datetime) -> None:
    """Note how a comparison ended; its seed goes."""
    comparison.state, comparison.verdict, comparison.ended_at = CLOSED, verdict.value, now
    comparison.wrapped_seed = None
    session.add(comparison)


def begin(
    session: Session,
    plan: ComparisonPlan,
    *,
    version_id: str,
    line_ref: str,
    tenant_id: str,
    domain: str,
    names: tuple[str, str],
    salt: str,
    now: datetime,
    reservation_id: str | None,
    wrapped_seed: bytes | None,
) -> None:
    """Store a comparison that begins now, or (without a reservation) one that cannot be had.

    Args:
        session: the caller's transaction.
        plan: what it is frozen to.
        version_id: the candidate's.
        line_ref: the line.
        tenant_id: whose.
        domain: of the line.
        names: served names of the candidate and of the version.
        salt: of the draw of subjects.
        now: the public clock, from which its looks are counted.
        reservation_id: what pays for it.
        wrapped_seed: of its noise.
    """
    charged = reservation_id is not None
    session.add(
        ComparisonRow(
            candidate_version_id=version_id,
            line_ref=line_ref,
            tenant_id=tenant_id,
            domain=domain,
            candidate_name=names[0],
            version_name=names[1],
            salt=salt,
            plan_json=json.dumps(plan.to_document(), sort_keys=True),
            begun_at=now,
            state=OPEN if charged else CLOSED,
            verdict=Verdict.NONE.value if charged else Verdict.NOT_CHARGED.value,
            ended_at=None if charged else now,
            reservation_id=reservation_id,
            wrapped_seed=wrapped_seed,
        )
    )
