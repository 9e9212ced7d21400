"""Budget questions of tenants and operators, for the command line and the operator API alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privacy.accounting.calibration import calibrate_policy, caps_of, schedule_of
from privacy.accounting.forecast import DEFAULT_PARAMETERS, ClarityRule, Outlook, noise_for, outlook, what_if
from privacy.errors import CalibrationError, PolicyError
from privacy.ledger.spending import spend_of, spent_budget, within_accounts
from privacy.policy import versions as policies

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from privacy.policy.values import TenantPrivacyPolicy


def policy_of(session: Session, tenant_id: str) -> TenantPrivacyPolicy:
    """Return a tenant's policy.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: it has no policy yet.
    """
    version = policies.tenant(session, tenant_id).policy
    if version is None:
        raise PolicyError(
            f"tenant {tenant_id} has no policy; set one with `discreet tenants set "
            f"{tenant_id} declared_users=...`"
        )
    return version.policy


def within_accounts_at(session: Session, tenant_id: str, now: datetime) -> TenantPrivacyPolicy:
    """Return a tenant's policy as its accounts of the period of ``now`` admit it: without votes where none is.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: it has no policy yet.
    """
    policy = policy_of(session, tenant_id)
    return within_accounts(session, tenant_id, policy.period_index(now), policy)


def spend_document(session: Session, tenant_id: str, now: datetime) -> dict[str, Any]:
    """Return what a tenant spent in the period of ``now`` and over its lifetime, as JSON-ready facts.

    The caps are those that the ledger enforces; where no account is open yet, those of the policy.

    Raises:
        UnknownTenantError: no such tenant is registered.
    """
    version = policies.tenant(session, tenant_id).policy
    policy = version.policy if version is not None else None
    period = policy.period_index(now) if policy is not None else 0
    view = spend_of(session, tenant_id, period, caps_of(policy) if policy is not None else None)
    return {
        "tenant": tenant_id,
        "policy_version": version.version if version is not None else None,
        "period_index": period if policy is not None else None,
        "period_epsilon": view.period_epsilon,
        "period_cap": view.period_cap,
        "period_used": view.period_used,
        "lifetime_epsilon": view.lifetime_epsilon,
        "lifetime_cap": view.lifetime_cap,
        "lifetime_used": view.lifetime_used,
        "population_epsilon": view.population_epsilon,
        "population_cap": view.population_cap,
        "delta": view.delta,
        "selection_delta": view.selection_delta,
        "selection_cap": view.selection_cap,
        "releases": view.releases,
        "reservations": {state.value: count for state, count in view.reservations.items()},
    }


def budget_plan(
    session: Session,
    tenant_id: str,
    *,
    now: datetime,
    parameters: int | None = None,
    releases: int | None = None,
    releases_per_period: int | None = None,
) -> list[Outlook | tuple[str, str]]:
    """Return the outlook of today's recipe, of a wish if there is one, and of one change at a time.

    A calibration or change that is refused comes as (name, reason); nothing is charged by asking.

    Args:
        session: to read what was spent.
        tenant_id: text slug of the tenant.
        now: the clock.
        parameters: trained parameters d in S = N·ρ·μ/√d; ``None`` takes what a release trains by default.
        releases: wish for this many more releases.
        releases_per_period: wish for this many releases in a period.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: it has no policy yet.
        CalibrationError: today's policy cannot be calibrated.
    """
    policy = within_accounts_at(session, tenant_id, now)
    rule = ClarityRule(parameters=parameters or DEFAULT_PARAMETERS)
    spent = spent_budget(session, tenant_id, policy.period_index(now))
    rows: list[Outlook | tuple[str, str]] = [
        outlook("now", policy, calibrate_policy(policy), spent=spent, rule=rule, now=now)
    ]
    if releases is not None or releases_per_period is not None:
        planned = schedule_of(policy)
        wished = releases or planned.releases
        pace = min(wished, releases_per_period or planned.releases_per_period)
        name = f"wish: {wished} releases"
        try:
            noise = noise_for(policy, releases=wished, releases_per_period=pace, spent=spent)
        except CalibrationError as error:
            rows.append((name, str(error)))
        else:
            rows.append(outlook(name, policy, noise, spent=spent, rule=rule, now=now, all_vote=False))
    return [*rows, *what_if(policy, spent=spent, rule=rule, now=now)]


def plan_document(tenant_id: str, rows: list[Outlook | tuple[str, str]]) -> dict[str, Any]:
    """Return a budget plan as JSON-ready facts."""
    return {
        "tenant": tenant_id,
        "outlooks": [
            {"name": row[0], "refused": row[1]} if isinstance(row, tuple) else row.to_document()
            for row in rows
        ],
    }
