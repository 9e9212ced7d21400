"""Reading a tenant's ledger: its account, the head of its chain, its entries and reservations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import col, select

from privacy.ledger.accounts import lifetime_account_id
from privacy.ledger.tables import AccountRow, LedgerEntryRow, LedgerHeadRow, ReservationRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlmodel import Session

    from privacy.ledger.chain import EntryKind


def lifetime_account(session: Session, tenant_id: str) -> AccountRow | None:
    """Return the tenant's account over its whole life, None when nothing was ever reserved."""
    return session.get(AccountRow, lifetime_account_id(tenant_id), populate_existing=True)


def chain_head(session: Session, tenant_id: str) -> LedgerHeadRow | None:
    """Return where the tenant's chain ends, None when it has no entry."""
    return session.get(LedgerHeadRow, tenant_id, populate_existing=True)


def entries(session: Session, tenant_id: str, *kinds: EntryKind) -> Sequence[LedgerEntryRow]:
    """Return the tenant's entries of these kinds, oldest first."""
    return session.exec(
        select(LedgerEntryRow)
        .where(
            col(LedgerEntryRow.tenant_id) == tenant_id,
            col(LedgerEntryRow.kind).in_([kind.value for kind in kinds]),
        )
        .order_by(col(LedgerEntryRow.sequence))
    ).all()


def reservations(session: Session, tenant_id: str) -> Sequence[ReservationRow]:
    """Return every reservation of the tenant, in no order."""
    return session.exec(select(ReservationRow).where(col(ReservationRow.tenant_id) == tenant_id)).all()
