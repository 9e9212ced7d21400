"""What an operator wants to see of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.gates.drift import drift_document
from personalization.gates.forgetting import PUBLIC_TEXT_CHECK
from personalization.registry import queries as registry
from personalization.rollouts import comparison_rows, looks
from personalization.rollouts import rows as rollouts
from personalization.rollouts.comparing import compare

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.registry.tables import AdapterVersionRow


def version_facts(row: AdapterVersionRow) -> dict[str, object]:
    """Return what an operator wants to see of a version, JSON-ready: state, cost, public text, movement."""
    manifest = registry.read_version(row).manifest
    public = next((one for one in manifest.evaluation.checks if one.name == PUBLIC_TEXT_CHECK), None)
    return {
        "domain": row.domain,
        "version": row.version,
        "served_name": row.served_name,
        "version_id": row.version_id,
        "state": row.state,
        "scope": manifest.scope.value,
        "start": manifest.lineage.start,
        "mechanism": manifest.privacy.mechanism,
        "release_epsilon": manifest.privacy.release_epsilon,
        "cumulative_epsilon": manifest.privacy.cumulative_epsilon,
        "public_text_change": None if public is None else public.value,
        "drift": drift_document(manifest),
        "published_at": row.published_at.isoformat(),
    }


def rollout_facts(session: Session, tenant_id: str | None = None) -> list[dict[str, object]]:
    """Return how the rollouts of one tenant's lines (or of all lines) stand, JSON-ready; by tenant and domain."""
    facts: list[dict[str, object]] = []
    domains = {line.line_ref: line.domain for line in registry.list_lines(session)}
    for row in rollouts.list_all(session, tenant_id):
        stands = rollouts.value_of(row)
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
                "verdict": row.verdict,
                "comparison": None
                if stands.candidate is None
                else comparison_facts(session, stands.candidate),
            }
        )
    return sorted(facts, key=lambda one: (str(one["tenant"]), str(one["domain"])))


def comparison_facts(session: Session, version_id: str) -> dict[str, object] | None:
    """Return what a candidate's comparison by users' reactions released, JSON-ready; ``None`` where there was none.

    Nothing in it is private any more: the sums were charged, drawn with noise and stored before anybody saw them.
    """
    row = comparison_rows.find(session, version_id)
    if row is None:
        return None
    plan = comparison_rows.plan_of(row)
    told, found = [], []
    for look in looks.taken(session, version_id):
        sums = looks.sums_of(look)
        if sums is not None:
            told.append(sums)
        so_far = (
            compare(plan.mechanism, plan.arms, told, expected_users=plan.reacting_users) if told else None
        )
        found.append(
            {
                "look": look.look,
                "taken_at": look.taken_at.isoformat(),
                "lost": sums is None,
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
