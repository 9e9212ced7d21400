"""Reservation rows and the frozen values read from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlmodel import col, select

from privacy.errors import ReservationStateError
from privacy.ledger.tables import ReservationRow
from privacy.ledger.values import DrawRecord, Reservation, ReservationState, RunBinding
from privacy.mechanisms.documents import from_document
from privacy.mechanisms.private_read import ReadPurpose

if TYPE_CHECKING:
    from sqlmodel import Session


def reservation_row(session: Session, reservation_id: str) -> ReservationRow:
    """Return a reservation's row as the database has it now.

    Raises:
        ReservationStateError: there is none of that id.
    """
    row = session.get(ReservationRow, reservation_id, populate_existing=True)
    if row is None:
        raise ReservationStateError("no reservation has the id asked for; reserve first")
    return row


def reservation_of(session: Session, reservation_id: str) -> Reservation | None:
    """Return a reservation for who shows it, ``None`` where there is none; who decides by it asks for it attested."""
    row = session.get(ReservationRow, reservation_id, populate_existing=True)
    return None if row is None else reservation_in(row)


def row_by_key(session: Session, tenant_id: str, idempotency_key: str) -> ReservationRow | None:
    """Return the reservation of a tenant's idempotency key."""
    return session.exec(
        select(ReservationRow)
        .where(
            col(ReservationRow.tenant_id) == tenant_id, col(ReservationRow.idempotency_key) == idempotency_key
        )
        .execution_options(populate_existing=True)
    ).one_or_none()


def state_of(row: ReservationRow) -> ReservationState:
    """Return the state of a reservation."""
    return ReservationState(row.state)


def draw_in(row: ReservationRow) -> DrawRecord | None:
    """Return the recorded draw, if there is one."""
    if row.seed_commitment is None or row.data_digest is None or row.code_digest is None:
        return None
    return DrawRecord(
        seed_commitment=row.seed_commitment, data_digest=row.data_digest, code_digest=row.code_digest
    )


def reservation_in(row: ReservationRow) -> Reservation:
    """Return the frozen value of a row.

    Raises:
        UnknownMechanismError: it holds an event that this version does not know.
    """
    return Reservation(
        reservation_id=row.reservation_id,
        tenant_id=row.tenant_id,
        period_index=row.period_index,
        policy_version=row.policy_version,
        purpose=ReadPurpose(row.purpose),
        state=state_of(row),
        epoch=row.epoch,
        idempotency_key=row.idempotency_key,
        mechanisms=tuple(from_document(one) for one in json.loads(row.mechanisms)),
        binding=None if row.binding is None else RunBinding.from_document(json.loads(row.binding)),
        draw=draw_in(row),
        artifact_digest=row.artifact_digest,
        reason=row.reason,
    )
