"""What a tenant spent, read from the carried curves in constant time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import col, func, select

from privacy.accounting.composition import best_epsilon
from privacy.accounting.curve import RdpCurve
from privacy.accounting.forecast import SpentBudget
from privacy.ledger.accounts import curve_in, filter_of, lifetime_account_id, period_account_id
from privacy.ledger.tables import AccountRow, ReservationRow
from privacy.ledger.values import ReservationState, SpendView

if TYPE_CHECKING:
    from sqlmodel import Session

    from privacy.accounting.filters import BudgetCaps


def spend_of(
    session: Session, tenant_id: str, period_index: int, caps: BudgetCaps | None = None
) -> SpendView:
    """Return what a tenant spent; ``caps`` stand in for accounts that nothing was charged to yet."""
    lifetime = session.get(AccountRow, lifetime_account_id(tenant_id), populate_existing=True)
    period = session.get(AccountRow, period_account_id(tenant_id, period_index), populate_existing=True)
    counted = session.exec(
        select(ReservationRow.state, func.count())
        .where(col(ReservationRow.tenant_id) == tenant_id)
        .group_by(ReservationRow.state)
    ).all()
    counts = {ReservationState(state): count for state, count in counted}
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
        delta=lifetime.delta if lifetime else (caps.lifetime_delta if caps else None),
        releases=counts.get(ReservationState.COMMITTED, 0),
        reservations=counts,
    )


def spent_budget(session: Session, tenant_id: str, period_index: int) -> SpentBudget:
    """Return the open filters of a tenant and the curves charged to them, as the planner takes them."""
    lifetime = session.get(AccountRow, lifetime_account_id(tenant_id), populate_existing=True)
    period = session.get(AccountRow, period_account_id(tenant_id, period_index), populate_existing=True)
    return SpentBudget(
        lifetime=filter_of(lifetime) if lifetime else None,
        lifetime_curve=curve_in(lifetime) if lifetime else RdpCurve.zero(),
        period=filter_of(period) if period else None,
        period_curve=curve_in(period) if period else RdpCurve.zero(),
    )


def _figures(row: AccountRow | None) -> tuple[float, float]:
    """Return ε spent (best order) and the used share of the filter."""
    if row is None:
        return 0.0, 0.0
    curve = curve_in(row)
    return best_epsilon(curve, row.delta)[0], filter_of(row).used_fraction(curve)
