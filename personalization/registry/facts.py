"""What an operator wants to see of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import VersionState
from personalization.gates.drift import drift_document
from personalization.gates.forgetting import PUBLIC_TEXT_CHECK
from personalization.registry import queries as registry
from personalization.rollouts import comparison_rows, looks
from personalization.rollouts import rows as rollouts
from personalization.rollouts.comparing import compare
from personalization.rollouts.values import Rollout
from privacy.ledger.reservations import reservation_of

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from personalization.registry.tables import AdapterVersionRow


def state_at(row: AdapterVersionRow, now: datetime) -> str:
    """Return a version's state for who must not see a slot before it has come.

    Its successor is registered when training has ended, and takes its place at the public instant of its slot.
    """
    if row.left_at is None or row.left_at <= now:
        return row.state
    was = VersionState.CANDIDATE if row.state == VersionState.ROLLED_BACK.value else VersionState.PUBLISHED
    return was.value


def version_facts(row: AdapterVersionRow, *, shown_at: datetime | None = None) -> dict[str, object]:
    """Return what an operator wants to see of a version, JSON-ready: state, cost, public text, movement.

    Args:
        row: the version.
        shown_at: slots that come later are not told; ``None``: the platform operator may know them.
    """
    manifest = registry.read_version(row).manifest
    public = next((one for one in manifest.evaluation.checks if one.name == PUBLIC_TEXT_CHECK), None)
    return {
        "domain": row.domain,
        "version": row.version,
        "served_name": row.served_name,
        "version_id": row.version_id,
        "state": row.state if shown_at is None else state_at(row, shown_at),
        "scope": manifest.scope.value,
        "start": manifest.lineage.start,
        "mechanism": manifest.privacy.mechanism,
        "release_epsilon": manifest.privacy.release_epsilon,
        "cumulative_epsilon": manifest.privacy.cumulative_epsilon,
        "public_text_change": None if public is None else public.value,
        "drift": drift_document(manifest),
        "published_at": row.published_at.isoformat(),
    }


def rollout_facts(
    session: Session, tenant_id: str | None = None, *, shown_at: datetime | None = None
) -> list[dict[str, object]]:
    """Return how the rollouts of one tenant's lines (or of all lines) stand, JSON-ready; by tenant and domain.

    Args:
        session: the caller's transaction.
        tenant_id: whose; ``None``: everybody's.
        shown_at: candidates whose slot comes later are as if they were not there; ``None``: the platform operator may
            know them.
    """
    facts: list[dict[str, object]] = []
    domains = {line.line_ref: line.domain for line in registry.list_lines(session)}
    for row in rollouts.list_all(session, tenant_id):
        stands, verdict = (
            (rollouts.value_of(row), row.verdict) if shown_at is None else rollouts.shown_at(row, shown_at)
        )
        if shown_at is not None and stands == Rollout():
            continue  # a line that was never decided about has no row
        found = None if stands.candidate is None else registry.get_version(session, stands.candidate)
        facts.append(
            {
                "tenant": row.tenant_id,
                "domain": domains[row.line_ref],
                "line_ref": row.line_ref,
                "stage": stands.stage.value,
                "step": stands.step,
                "percent": stands.percent,
                "mode": stands.mode.value,
                "flag": stands.flag.value,
                "candidate": None if found is None else found.served_name,
                "entered_at": None if stands.entered_at is None else stands.entered_at.isoformat(),
                "verdict": verdict,
                "comparison": None
                if stands.candidate is None
                else comparison_facts(session, stands.candidate),
            }
        )
    return sorted(facts, key=lambda one: (str(one["tenant"]), str(one["domain"])))


def comparison_facts(session: Session, version_id: str) -> dict[str, object] | None:
    """Return what a candidate's comparison by users' reactions released, JSON-ready; ``None`` where there was none.

    Nothing in it is private any more: the sums were charged, drawn with noise and stored before anybody saw them. Of a
    look whose sums are not those that were signed for its charge it says so (``holds``), and nothing is estimated from
    it on, as nothing is decided.
    """
    row = comparison_rows.find(session, version_id)
    if row is None:
        return None
    plan = comparison_rows.plan_of(row)
    reservation = None if row.reservation_id is None else reservation_of(session, row.reservation_id)
    told, found = [], []
    all_hold = True
    for look in looks.taken(session, version_id):
        sums = looks.sums_of(look)
        holds = None if sums is None else reservation is not None and looks.is_signed(look, sums, reservation)
        all_hold = all_hold and holds is not False
        if sums is not None:
            told.append(sums)
        so_far = (
            compare(plan.mechanism, plan.arms, told, expected_users=plan.reacting_users)
            if told and all_hold
            else None
        )
        found.append(
            {
                "look": look.look,
                "taken_at": look.taken_at.isoformat(),
                "lost": sums is None,
                "holds": holds,
                "sums": None if sums is None else list(sums),
                "effect": None if so_far is None else so_far.effect,
                "users": None if so_far is None else so_far.users,
            }
        )
    return {
        "state": row.state,
        "verdict": row.verdict,
        "version": row.version_name,
        "begun_at": row.begun_at.isoformat(),
        "ended_at": None if row.ended_at is None else row.ended_at.isoformat(),
        "reservation_id": row.reservation_id,
        "plan": plan.to_document(),
        "looks": found,
    }
