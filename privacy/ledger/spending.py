"""What a tenant spent, read from the carried curves in constant time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sqlmodel import col, func, select

from privacy.accounting.calibration import caps_of, style_vote_of
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.accounting.curve import DELTA_UNITS, RdpCurve
from privacy.accounting.forecast import SpentBudget
from privacy.ledger.accounts import (
    curve_in,
    filter_of,
    lifetime_account_id,
    period_account_id,
    population_account_id,
)
from privacy.ledger.populations import memberships
from privacy.ledger.tables import AccountRow, LedgerHeadRow, ReservationRow
from privacy.ledger.values import ReservationState, SpendView
from privacy.mechanisms.private_read import NO_RELEASES, ReadPurpose

if TYPE_CHECKING:
    from sqlmodel import Session

    from privacy.accounting.filters import BudgetCaps
    from privacy.policy.values import TenantPrivacyPolicy


def spend_of(
    session: Session, tenant_id: str, period_index: int, caps: BudgetCaps | None = None
) -> SpendView:
    """Return what a tenant spent; ``caps`` stand in for accounts that nothing was charged to yet."""
    lifetime = session.get(AccountRow, lifetime_account_id(tenant_id), populate_existing=True)
    period = session.get(AccountRow, period_account_id(tenant_id, period_index), populate_existing=True)
    counted = session.exec(
        select(ReservationRow.state, ReservationRow.purpose, func.count())
        .where(col(ReservationRow.tenant_id) == tenant_id)
        .group_by(ReservationRow.state, ReservationRow.purpose)
    ).all()
    counts: dict[ReservationState, int] = {}
    releases = 0
    for state, purpose, count in counted:
        counts[ReservationState(state)] = counts.get(ReservationState(state), 0) + count
        if state == ReservationState.COMMITTED.value and purpose not in NO_RELEASES:
            releases += count
    populations = _population_accounts(session, tenant_id)
    delta = lifetime.delta if lifetime else (caps.lifetime_delta if caps else None)
    lifetime_spent, lifetime_used = _figures(lifetime)
    period_spent, period_used = _figures(period)
    return SpendView(
        tenant_id=tenant_id,
        period_index=period_index,
        period_epsilon=period_spent,
        period_cap=period.epsilon if period else (caps.period_epsilon if caps else None),
        period_used=period_used,
        lifetime_epsilon=lifetime_spent,
        lifetime_cap=lifetime.epsilon if lifetime else (caps.lifetime_epsilon if caps else None),
        lifetime_used=lifetime_used,
        delta=delta,
        releases=releases,
        reservations=counts,
        population_epsilon=max((_epsilon(row, delta) for row in populations), default=0.0),
        population_cap=max((row.epsilon for row in populations), default=None),
        selection_delta=0.0 if lifetime is None else curve_in(lifetime).delta / DELTA_UNITS,
        selection_cap=None if lifetime is None else filter_of(lifetime).selection_budget / DELTA_UNITS,
    )


def _population_accounts(session: Session, tenant_id: str) -> list[AccountRow]:
    """Return the open accounts of the populations that a tenant has joined."""
    ids = [population_account_id(name) for name in sorted(memberships(session, tenant_id))]
    found = (session.get(AccountRow, account_id, populate_existing=True) for account_id in ids)
    return [row for row in found if row is not None]


def spending_mark(session: Session, tenant_id: str) -> tuple[tuple[str, int | str], ...]:
    """Return what changes whenever anything is charged to the tenant, or to a population that it is in."""
    head = session.get(LedgerHeadRow, tenant_id, populate_existing=True)
    own: tuple[tuple[str, int | str], ...] = () if head is None else ((tenant_id, head.digest),)
    together = _population_accounts(session, tenant_id)
    return own + tuple((row.entry_tenant_id, row.entry_sequence) for row in together)


def spent_budget(session: Session, tenant_id: str, period_index: int) -> SpentBudget:
    """Return the open filters of a tenant and the curves charged to them, as the planner takes them.

    The lifetime is that of the tenant's own account or of a population it is in, whichever is more used up.
    """
    lifetime = session.get(AccountRow, lifetime_account_id(tenant_id), populate_existing=True)
    together = [row for row in (lifetime, *_population_accounts(session, tenant_id)) if row is not None]
    lifetime = max(together, key=lambda row: _figures(row)[1], default=None)
    period = session.get(AccountRow, period_account_id(tenant_id, period_index), populate_existing=True)
    ever, lately = readings_charged(session, tenant_id, period_index)
    return SpentBudget(
        lifetime=filter_of(lifetime) if lifetime else None,
        lifetime_curve=curve_in(lifetime) if lifetime else RdpCurve.zero(),
        period=filter_of(period) if period else None,
        period_curve=curve_in(period) if period else RdpCurve.zero(),
        readings=ever,
        readings_in_period=lately,
    )


def readings_charged(session: Session, tenant_id: str, period_index: int) -> tuple[int, int]:
    """Return how many readings of drift the tenant is charged for: ever, and in the period."""
    rows = session.exec(
        select(ReservationRow.period_index, func.count())
        .where(
            ReservationRow.tenant_id == tenant_id,
            ReservationRow.purpose == ReadPurpose.DRIFT.value,
            ReservationRow.state != ReservationState.RELEASED.value,
        )
        .group_by(col(ReservationRow.period_index))
    ).all()
    counts = {int(period): int(count) for period, count in rows}
    return sum(counts.values()), counts.get(period_index, 0)


def within_accounts(
    session: Session, tenant_id: str, period_index: int, policy: TenantPrivacyPolicy
) -> TenantPrivacyPolicy:
    """Return the policy, with ``styles`` off where an open account has no δ left for its vote.

    Accounts from before there were selections keep none for them, others may have used theirs up; either is known from
    the ledger alone, and a release then goes without a vote instead of being refused.

    Args:
        session: a transaction.
        tenant_id: whose.
        period_index: of the release.
        policy: the tenant's newest.
    """
    vote = style_vote_of(policy)
    if vote is None:
        return policy
    caps, asked = caps_of(policy), curve_of(vote)
    populations = memberships(session, tenant_id) | ({policy.population} if policy.population else set())
    lifetimes = [lifetime_account_id(tenant_id), *(population_account_id(name) for name in populations)]
    limits = dict.fromkeys(lifetimes, (caps.lifetime_epsilon, caps.lifetime_delta))
    limits[period_account_id(tenant_id, period_index)] = caps.period_epsilon, caps.period_delta
    for account_id, (epsilon, delta) in limits.items():
        row = session.get(AccountRow, account_id, populate_existing=True)
        if row is None:
            continue  # it will be opened with a share
        selections = filter_of(row).narrowed_to(epsilon, delta).selection_budget
        if (curve_in(row) + asked).delta > selections:
            return policy.model_copy(update={"styles": False})
    return policy


def _epsilon(row: AccountRow, delta: float | None) -> float:
    """Return ε spent at ``delta``, at the best order; at the account's own δ where selections took more than that."""
    curve = curve_in(row)
    spent = best_epsilon(curve, row.delta if delta is None else delta)[0]
    return spent if math.isfinite(spent) else best_epsilon(curve, row.delta)[0]


def _figures(row: AccountRow | None) -> tuple[float, float]:
    """Return ε spent (best order) and the used share of the filter."""
    if row is None:
        return 0.0, 0.0
    curve = curve_in(row)
    return best_epsilon(curve, row.delta)[0], filter_of(row).used_fraction(curve)
