"""Accounts: filters with the curve charged to them, opened once, checked against the chain, debited exactly.

The curve is carried in the account's row so that admission costs the same after 10 and after 10,000
releases. Each entry that changes curves also records their digests, and the row names that entry: one
look-up by key ties the number that admission trusts to the append-only chain. ``privacy.ledger.verify``
recomputes all of it from the events.

Caps. An account keeps the caps, rule, orders and share for selections it was opened with; the proof of its filter
fixes them in advance. A policy with a lower cap narrows admission at once (stopping early keeps the proof), one with a
higher cap reaches only accounts opened later, that is new periods; a lifetime cap is never raised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import and_, col, select

from privacy.accounting.composition import best_epsilon
from privacy.accounting.curve import DELTA_UNITS, RdpCurve
from privacy.accounting.filters import AccountSettings, FilterRule, PrivacyFilter
from privacy.errors import BudgetExhaustedError, LedgerIntegrityError
from privacy.guarantee import PrivacyUnit, unit_of_chain
from privacy.ledger.chain import EntryKind, append, canonical, digest_of, stored_entries, written
from privacy.ledger.tables import AccountRow, LedgerEntryRow
from privacy.ledger.values import AccountScope, ReservationRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.sql.dml import Update
    from sqlmodel import Session

    from privacy.ledger.tables import LedgerHeadRow
    from privacy.ledger.values import PopulationCap


@dataclass(frozen=True, kw_only=True)
class AccountTarget:
    """An account that a reservation must be charged to, with the (ε, δ) that its policy asks for now."""

    account_id: str
    scope: AccountScope
    tenant_id: str | None
    period_index: int | None
    epsilon: float
    delta: float


def lifetime_account_id(tenant_id: str) -> str:
    """Return the id of a tenant's lifetime account."""
    return f"lifetime:{tenant_id}"


def period_account_id(tenant_id: str, period_index: int) -> str:
    """Return the id of a tenant's account for one period."""
    return f"period:{tenant_id}:{period_index}"


def population_account_id(population_id: str) -> str:
    """Return the id of a population's account."""
    return f"{AccountScope.POPULATION.value}:{population_id}"


def population_target(cap: PopulationCap) -> AccountTarget:
    """Return the account of a population."""
    return AccountTarget(
        account_id=population_account_id(cap.population_id),
        scope=AccountScope.POPULATION,
        tenant_id=None,
        period_index=None,
        epsilon=cap.epsilon,
        delta=cap.delta,
    )


def targets_of(request: ReservationRequest, populations: Sequence[PopulationCap]) -> list[AccountTarget]:
    """Return every account the request must fit into; ``populations`` are those that its tenant has joined."""
    caps, targets = request.caps, [population_target(cap) for cap in populations]
    targets.append(
        AccountTarget(
            account_id=lifetime_account_id(request.tenant_id),
            scope=AccountScope.LIFETIME,
            tenant_id=request.tenant_id,
            period_index=None,
            epsilon=caps.lifetime_epsilon,
            delta=caps.lifetime_delta,
        )
    )
    targets.append(
        AccountTarget(
            account_id=period_account_id(request.tenant_id, request.period_index),
            scope=AccountScope.PERIOD,
            tenant_id=request.tenant_id,
            period_index=request.period_index,
            epsilon=caps.period_epsilon,
            delta=caps.period_delta,
        )
    )
    return targets


def filter_of(row: AccountRow) -> PrivacyFilter:
    """Return the frozen filter of an account."""
    return PrivacyFilter(
        epsilon=row.epsilon,
        delta=row.delta,
        rule=FilterRule(row.rule),
        orders=tuple(json.loads(row.orders)),
        selection_share=row.selection_share,
    )


def curve_in(row: AccountRow) -> RdpCurve:
    """Return the curve charged to an account."""
    return RdpCurve.from_document(json.loads(row.curve))


@dataclass(frozen=True, kw_only=True)
class LockedAccounts:
    """Accounts that are locked until the transaction ends, by id, and entries of the chain that were read with them."""

    rows: dict[str, AccountRow]
    entries: tuple[LedgerEntryRow, ...]


def locked_accounts(session: Session, account_ids: list[str]) -> LockedAccounts:
    """Lock the accounts that exist, in the order of their ids, and return them.

    A population's account comes last in that order and is shared by tenants, so it is held for the shortest
    time. The entry that last changed each account is read with it, but for an account that another tenant changed
    while this one waited for it: there the row is the new one and its entry is left out.
    """
    found = session.exec(
        select(AccountRow, LedgerEntryRow)
        .outerjoin(
            LedgerEntryRow,
            and_(
                col(LedgerEntryRow.tenant_id) == col(AccountRow.entry_tenant_id),
                col(LedgerEntryRow.sequence) == col(AccountRow.entry_sequence),
            ),
        )
        .where(col(AccountRow.account_id).in_(account_ids))
        .order_by(col(AccountRow.account_id))
        .with_for_update(of=AccountRow)
        .execution_options(populate_existing=True)
    ).all()
    return LockedAccounts(
        rows={row.account_id: row for row, _ in found},
        entries=tuple(entry for _, entry in found if entry is not None),
    )


def open_accounts(
    session: Session,
    head: LedgerHeadRow,
    targets: list[AccountTarget],
    *,
    settings: AccountSettings,
    recipe: RdpCurve,
    now: datetime,
) -> LockedAccounts:
    """Return the locked accounts of ``targets``, in their order; open what is missing, suited to ``recipe``.

    Each account that is opened gets an entry.
    """
    account_ids = [target.account_id for target in targets]
    locked = locked_accounts(session, account_ids)
    missing = [target for target in targets if target.account_id not in locked.rows]
    for target in missing:
        _open(session, head, target, settings=settings, recipe=recipe, now=now)
    if missing:
        locked = locked_accounts(session, account_ids)
    return LockedAccounts(rows={one: locked.rows[one] for one in account_ids}, entries=locked.entries)


def _open(
    session: Session,
    head: LedgerHeadRow,
    target: AccountTarget,
    *,
    settings: AccountSettings,
    recipe: RdpCurve,
    now: datetime,
) -> None:
    if unit_of_chain(head.tenant_id) is not PrivacyUnit.USER:
        settings = replace(settings, selection_share=0.0)  # users vote, tenants do not
    frozen = settings.opened(target.epsilon, target.delta, recipe)
    opened = {
        "account_id": target.account_id,
        "scope": target.scope.value,
        "tenant_id": target.tenant_id,
        "period_index": target.period_index,
        "epsilon": target.epsilon,
        "delta": target.delta,
        "rule": frozen.rule.value,
        "orders": list(frozen.orders),
        "selection_share": frozen.selection_share,
    }
    open_frozen(session, head, opened, now=now)


def open_frozen(session: Session, head: LedgerHeadRow, opened: dict[str, Any], *, now: datetime) -> None:
    """Open an account with the filter that ``opened`` (the form of its entry in the chain) names, unless it is open."""
    curve = RdpCurve.zero().to_document()
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {
        **opened,
        "orders": canonical(list(opened["orders"])),
        "curve": canonical(curve),
        "entry_tenant_id": head.tenant_id,
        "entry_sequence": head.sequence + 1,
    }
    statement = (
        insert(AccountRow).values(values).on_conflict_do_nothing().returning(col(AccountRow.account_id))
    )
    if session.execute(statement).scalar_one_or_none() is not None:
        document = {"account": opened, "curve_digests": {opened["account_id"]: digest_of(curve)}}
        append(
            session,
            head,
            kind=EntryKind.ACCOUNT_OPENED,
            recorded_at=now,
            reservation_id=None,
            document=document,
        )


def check_against_chain(
    session: Session, head: LedgerHeadRow, rows: Iterable[AccountRow], known: Iterable[LedgerEntryRow] = ()
) -> None:
    """Check in constant time that the head and each account's curve are the ones that the chain records.

    Args:
        session: the caller's open transaction.
        head: of the tenant's chain, locked.
        rows: locked accounts.
        known: entries that were read in this transaction; what is not among them is read.

    Raises:
        LedgerIntegrityError: one of them was changed outside the ledger.
    """
    rows = list(rows)
    places = {(row.entry_tenant_id, row.entry_sequence) for row in rows}
    if head.sequence:
        places.add((head.tenant_id, head.sequence))
    entries = stored_entries(session, places, known)
    if head.sequence and entries[head.tenant_id, head.sequence].digest != head.digest:
        raise LedgerIntegrityError(
            f"the head of tenant {head.tenant_id} does not match its last entry; run `discreet budget verify`"
        )
    for row in rows:
        document = json.loads(entries[row.entry_tenant_id, row.entry_sequence].document)
        recorded = document.get("curve_digests", {}).get(row.account_id)
        if recorded != digest_of(json.loads(row.curve)):
            raise LedgerIntegrityError(
                f"the spend of account {row.account_id} does not match the entry that last changed it; "
                "run `discreet budget verify`"
            )


def refuse_over_spend(row: AccountRow, target: AccountTarget, asked: RdpCurve) -> None:
    """Refuse what the account's filter, narrowed to today's policy, does not admit.

    Raises:
        BudgetExhaustedError: with what was asked, what is spent and the cap.
    """
    effective = filter_of(row).narrowed_to(target.epsilon, target.delta)
    spent = curve_in(row)
    if effective.admits(spent, asked):
        return
    if (spent + asked).delta > effective.selection_budget:
        asked_delta, spent_delta, most = (
            units / DELTA_UNITS for units in (asked.delta, spent.delta, effective.selection_budget)
        )
        raise BudgetExhaustedError(
            f"tenant {target.tenant_id or 'population'} asks for delta {asked_delta:.3g} of selections in its "
            f"{target.scope.value} budget, where {spent_delta:.3g} is spent and {most:.3g} is kept for them since the "
            "account was opened; ask without a selection or wait for a new period"
        )
    asked_epsilon, _ = best_epsilon(asked, effective.delta)
    spent_epsilon, _ = best_epsilon(spent, effective.delta)
    share = effective.used_fraction(spent)
    raise BudgetExhaustedError(
        f"tenant {target.tenant_id or 'population'} asks for epsilon {asked_epsilon:.4g} "
        f"in its {target.scope.value} "
        f"budget, where {spent_epsilon:.4g} is spent ({share:.1%} of the filter) and the cap is "
        f"{effective.epsilon:.4g} at delta {effective.delta:.3g}; reserve less or wait for a new period"
    )


def set_curves(
    rows: Iterable[AccountRow], curves: Iterable[RdpCurve], head: LedgerHeadRow
) -> tuple[dict[str, str], list[Update]]:
    """Return the digests of locked accounts' new curves for the entry about to be appended, and the writes of both.

    The writes point at that entry, which the caller appends next with them along: ``head.sequence + 1``.
    """
    accounts = AccountRow.__table__  # type: ignore[attr-defined]
    digests, writes = {}, []
    for row, curve in zip(rows, curves, strict=True):
        document = curve.to_document()
        digests[row.account_id] = digest_of(document)
        values = {
            "curve": canonical(document),
            "entry_tenant_id": head.tenant_id,
            "entry_sequence": head.sequence + 1,
        }
        writes.append(update(accounts).where(accounts.c.account_id == row.account_id).values(values))
        written(row, values)
    return digests, writes
