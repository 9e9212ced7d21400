"""End the rounds whose public slot is over: their charge stays, their seeds and sealed snapshots are destroyed.

It happens by the public clock, whoever holds the round: a trainer that still works on one finds its lease lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.errors import RoundTermsError
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, announce
from personalization.releases.terms import Terms
from personalization.rounds import queries as rounds
from personalization.rounds.states import OutcomeCode, RoundState
from privacy.ledger import ReservationState

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from personalization.registry.announcements import AdapterEvents
    from personalization.rounds.tables import RoundRow
    from privacy.ledger import Ledger

ACTOR = "schedule"
SLOT_PASSED = "The round was not done by the end of its slot; its charge stays."


def forfeit_overdue(
    session: Session, ledger: Ledger, events: AdapterEvents, *, now: datetime
) -> tuple[str, ...]:
    """Close every open round whose slot is over, in the caller's transaction; return their ids.

    A round that was reserved and never started gives its budget back: nothing private was read for it.
    """
    rows = rounds.overdue_rounds(session, now)
    for row in rows:
        row.epoch += 1
        told_at = told_at_of(row, now)
        if row.reservation_id is not None:
            give_up(session, ledger, row.reservation_id, row.epoch, SLOT_PASSED, told_at=told_at)
        rounds.close_round(session, row, RoundState.FAILED, OutcomeCode.FORFEITED, SLOT_PASSED, now=now)
        line = registry.lock_line(session, row.line_ref)
        act = Act(actor=ACTOR, reason=SLOT_PASSED, code=OutcomeCode.FORFEITED.value, now=told_at)
        announce(session, events, line, AdapterEventKind.DECLINED, act, round_id=row.round_id)
    return tuple(row.round_id for row in rows)


def give_up(
    session: Session, ledger: Ledger, reservation_id: str, epoch: int, reason: str, *, told_at: datetime
) -> None:
    """Release a reservation that never started, forfeit any other; the entry is stamped with a public instant."""
    if ledger.reservation(session, reservation_id).state is ReservationState.RESERVED:
        ledger.release(session, reservation_id, epoch)  # nothing private was read
    else:
        ledger.forfeit(session, reservation_id, epoch, reason, at=told_at)


def told_at_of(row: RoundRow, otherwise: datetime) -> datetime:
    """Return the public instant that a reserved round's terms fix; ``otherwise`` where they cannot be read."""
    if row.terms_json is None:
        return otherwise
    try:
        return Terms.from_json(row.terms_json).slot.told_at
    except RoundTermsError:
        return otherwise
