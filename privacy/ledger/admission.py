"""What stands in a tenant's ledger when a reservation is asked for, read at once under the lock of its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import and_, col, select

from privacy.ledger.tables import LedgerEntryRow, LedgerHeadRow, PopulationMemberRow, ReservationRow

if TYPE_CHECKING:
    from sqlmodel import Session


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a tenant's ledger holds.

    Attributes:
        last: the entry that the head names; ``None`` where the chain is empty or has lost it.
        repeated: the reservation of the key that is asked with, if there is one.
        populations: those that the tenant is in.
    """

    last: LedgerEntryRow | None
    repeated: ReservationRow | None
    populations: frozenset[str]


def standing(session: Session, head: LedgerHeadRow, idempotency_key: str) -> Standing:
    """Return what stands in the ledger of the tenant whose ``head`` is locked.

    Whoever changes any of it holds that lock, so a statement that begins after it was taken sees the newest of all.
    """
    found = session.exec(
        select(LedgerEntryRow, ReservationRow, PopulationMemberRow.population_id)
        .select_from(LedgerHeadRow)
        .outerjoin(
            LedgerEntryRow,
            and_(
                col(LedgerEntryRow.tenant_id) == col(LedgerHeadRow.tenant_id),
                col(LedgerEntryRow.sequence) == col(LedgerHeadRow.sequence),
            ),
        )
        .outerjoin(
            ReservationRow,
            and_(
                col(ReservationRow.tenant_id) == col(LedgerHeadRow.tenant_id),
                col(ReservationRow.idempotency_key) == idempotency_key,
            ),
        )
        .outerjoin(PopulationMemberRow, col(PopulationMemberRow.tenant_id) == col(LedgerHeadRow.tenant_id))
        .where(col(LedgerHeadRow.tenant_id) == head.tenant_id)
        .execution_options(populate_existing=True)
    ).all()
    last, repeated, _ = found[0]
    populations = frozenset(name for *_, name in found if name is not None)
    return Standing(last=last, repeated=repeated, populations=populations)
