"""What is anchored of a ledger outside the database, and how a ledger that was set back forfeits what it has lost.

A *mark* is a chain's head and the accounts that its tenant is charged to, with what is spent of each: enough to charge
every entry that a restored backup lacks, without knowing the entries. Of the accounts of periods the newest three are
marked; a round reserves in the period of its own slot, so older ones are closed, and a ledger that was set back
forfeits whatever is left of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlmodel import and_, col, or_, select

from privacy.accounting.curve import ORDERS, RdpCurve
from privacy.accounting.filters import AccountSettings, BudgetCaps
from privacy.ledger.accounts import (
    check_against_chain,
    curve_in,
    filter_of,
    locked_accounts,
    open_frozen,
    population_account_id,
    set_curves,
)
from privacy.ledger.chain import EntryKind, append, lock_head
from privacy.ledger.populations import join
from privacy.ledger.tables import (
    AccountRow,
    LedgerEntryRow,
    LedgerHeadRow,
    PopulationMemberRow,
    ReservationRow,
)
from privacy.ledger.values import AccountScope, PopulationCap, ReservationState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.ledger.service import Ledger

MARKED_PERIODS: Final = 3
REASON: Final = "the database was restored from a backup; what happened since is spent"
_OPEN: Final = (ReservationState.RESERVED.value, ReservationState.RUNNING.value)
_POPULATION: Final = f"{AccountScope.POPULATION.value}:"


@dataclass(frozen=True, kw_only=True)
class AccountMark:
    """One account: the filter it was opened with, frozen, and what was charged to it."""

    account_id: str
    scope: str
    tenant_id: str | None
    period_index: int | None
    epsilon: float
    delta: float
    rule: str
    orders: tuple[float, ...]
    selection_share: float
    spent: RdpCurve

    def opened(self) -> dict[str, Any]:
        """Return how the account was opened, as its entry in the chain says it."""
        names = ("account_id", "scope", "tenant_id", "period_index", "epsilon", "delta", "rule")
        return {
            **{name: getattr(self, name) for name in names},
            "orders": list(self.orders),
            "selection_share": self.selection_share,
        }


@dataclass(frozen=True, kw_only=True)
class LedgerMark:
    """The end of a chain and the accounts of its tenant."""

    sequence: int
    digest: str
    accounts: tuple[AccountMark, ...] = ()


def ledger_marks(session: Session, tenant_ids: Collection[str]) -> dict[str, LedgerMark]:
    """Return the mark of each tenant that has a chain; heads are read first, so no mark misses a charge before it."""
    heads = session.exec(select(LedgerHeadRow).where(col(LedgerHeadRow.tenant_id).in_(tenant_ids))).all()
    members = session.exec(
        select(PopulationMemberRow).where(col(PopulationMemberRow.tenant_id).in_(tenant_ids))
    ).all()
    joined = {population_account_id(member.population_id) for member in members}
    rows = session.exec(
        select(AccountRow)
        .where(or_(col(AccountRow.tenant_id).in_(tenant_ids), col(AccountRow.account_id).in_(joined)))
        .execution_options(populate_existing=True)
    ).all()
    found = {}
    for head in heads:
        if head.sequence == 0:
            continue
        populations = {
            population_account_id(m.population_id) for m in members if m.tenant_id == head.tenant_id
        }
        own = [row for row in rows if row.tenant_id == head.tenant_id or row.account_id in populations]
        found[head.tenant_id] = LedgerMark(
            sequence=head.sequence, digest=head.digest, accounts=tuple(_mark(row) for row in _newest(own))
        )
    return found


def all_chains(session: Session) -> Sequence[str]:
    """Return everybody who has a chain with an entry."""
    return session.exec(select(LedgerHeadRow.tenant_id).where(col(LedgerHeadRow.sequence) > 0)).all()


def missing_entries(session: Session, marks: Collection[tuple[str, int, str]]) -> set[str]:
    """Return the tenants whose chain does not hold the entry that their mark names.

    Args:
        session: the caller's transaction.
        marks: (tenant, sequence, digest) of each.
    """
    lacking = {tenant_id for tenant_id, sequence, _ in marks if sequence > 0}
    wanted = [mark for mark in marks if mark[1] > 0]
    for start in range(0, len(wanted), 200):
        places = (
            and_(
                col(LedgerEntryRow.tenant_id) == tenant_id,
                col(LedgerEntryRow.sequence) == sequence,
                col(LedgerEntryRow.digest) == digest,
            )
            for tenant_id, sequence, digest in wanted[start : start + 200]
        )
        held = session.exec(select(LedgerEntryRow).where(or_(*places))).all()
        lacking -= {entry.tenant_id for entry in held}
    return lacking


def forfeit_lost(
    session: Session, ledger: Ledger, tenant_id: str, mark: LedgerMark, *, timeline: int, now: datetime
) -> tuple[str, ...]:
    """Charge a chain that was set back with everything that its mark says was spent, and close what it left open.

    Reservations that are open in the backup are forfeited: they have run since, and running them again on other data
    would be a second draw from the same charge. Accounts and memberships that the backup lacks are opened again as they
    were.

    Args:
        session: the caller's transaction.
        ledger: forfeits open reservations.
        tenant_id: whose chain.
        mark: what was anchored of it.
        timeline: the life of the database that begins with this restore.
        now: aware.

    Returns:
        The accounts that were charged.

    Raises:
        LedgerIntegrityError: the carried spend does not match the chain.
    """
    head = lock_head(session, tenant_id)
    for reservation in session.exec(
        select(ReservationRow).where(
            col(ReservationRow.tenant_id) == tenant_id, col(ReservationRow.state).in_(_OPEN)
        )
    ).all():
        ledger.forfeit(session, reservation.reservation_id, reservation.epoch, REASON)
    marks = {one.account_id: one for one in mark.accounts}
    known = locked_accounts(session, sorted(marks)).rows
    for account_id in sorted(marks.keys() - known.keys()):
        open_frozen(session, head, marks[account_id].opened(), now=now)
    _join_again(session, head, list(marks.values()), now=now)
    periods = [one.period_index for one in mark.accounts if one.period_index is not None]
    closed = _older_periods(session, tenant_id, min(periods)) if periods else []
    # Locked again in one go and in order, as every verb takes them.
    locked = locked_accounts(session, sorted({*marks, *closed}))
    rows = [locked.rows[account_id] for account_id in sorted(locked.rows)]
    check_against_chain(session, head, rows, locked.entries)
    lost = {
        row.account_id: _above(marks[row.account_id].spent, curve_in(row))
        if row.account_id in marks
        else _rest(row)
        for row in rows
    }
    charged = [row for row in rows if not lost[row.account_id].is_zero]
    curves = [curve_in(row) + lost[row.account_id] for row in charged]
    digests, writes = set_curves(charged, curves, head)
    append(
        session,
        head,
        kind=EntryKind.RESTORED,
        recorded_at=now,
        reservation_id=None,
        document={
            "timeline": timeline,
            "anchored": {"sequence": mark.sequence, "digest": mark.digest},
            "charged": {row.account_id: lost[row.account_id].to_document() for row in charged},
            "curve_digests": digests,
            "reason": REASON,
        },
        along=writes,
    )
    session.flush()
    return tuple(row.account_id for row in charged)


def _join_again(
    session: Session, head: LedgerHeadRow, marks: Sequence[AccountMark], *, now: datetime
) -> None:
    caps = [
        PopulationCap(
            population_id=mark.account_id.removeprefix(_POPULATION), epsilon=mark.epsilon, delta=mark.delta
        )
        for mark in marks
        if mark.scope == AccountScope.POPULATION.value
    ]
    if not caps:
        return
    unused = BudgetCaps(
        period_epsilon=caps[0].epsilon,
        period_delta=caps[0].delta,
        lifetime_epsilon=caps[0].epsilon,
        lifetime_delta=caps[0].delta,
    )
    join(session, head, unused, caps, settings=AccountSettings(), now=now)


def _older_periods(session: Session, tenant_id: str, before: int) -> list[str]:
    """Return the accounts of periods before the oldest that is marked."""
    return list(
        session.exec(
            select(AccountRow.account_id).where(
                col(AccountRow.tenant_id) == tenant_id, col(AccountRow.period_index) < before
            )
        )
    )


def _newest(rows: Sequence[AccountRow]) -> list[AccountRow]:
    periods = sorted(
        (row for row in rows if row.period_index is not None), key=lambda row: row.period_index or 0
    )
    kept = [row for row in rows if row.period_index is None] + periods[-MARKED_PERIODS:]
    return sorted(kept, key=lambda row: row.account_id)


def _mark(row: AccountRow) -> AccountMark:
    return AccountMark(
        account_id=row.account_id,
        scope=row.scope,
        tenant_id=row.tenant_id,
        period_index=row.period_index,
        epsilon=row.epsilon,
        delta=row.delta,
        rule=row.rule,
        orders=tuple(json.loads(row.orders)),
        selection_share=row.selection_share,
        spent=curve_in(row),
    )


def _above(marked: RdpCurve, held: RdpCurve) -> RdpCurve:
    """Return by how much more is marked than held, at no order less than nothing."""
    values = tuple(max(0, one - other) for one, other in zip(marked.values, held.values, strict=True))
    return RdpCurve(values, max(0, marked.delta - held.delta))


def _rest(row: AccountRow) -> RdpCurve:
    """Return all that an account still admits."""
    limits, held = filter_of(row), curve_in(row)
    values = [0] * len(held.values)
    for order in limits.orders:
        values[ORDERS.index(order)] = max(0, limits.budget(order) - held.at(order))
    return RdpCurve(tuple(values), max(0, limits.selection_budget - held.delta))
