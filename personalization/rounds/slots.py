"""When what comes of a round is told: at an instant of the public clock, whatever the training took.

A round belongs to a slot: the one that its schedule names, or the second in which a person opened it; one that was
brought forward belongs to the public instant at which it was. From the slot on,
time is cut into windows of the policy's ``release_padding_seconds``. A round that begins in one window is told at the
end of the next, so that at least one whole window is left for it; a run that is not done by then forfeits at that
instant. With a padding of 0 the slot itself is stamped on what leaves, which then appears as soon as it is done;
windows of a day still end such a round.

The instants are fixed when the round is reserved, and kept in its frozen terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlmodel import col, func, select

from personalization.rounds.tables import RoundRow

if TYPE_CHECKING:
    from sqlmodel import Session

PROMPT = timedelta(
    minutes=1
)  # a round that is opened later than this after its slot, or before it, has the opening as its slot
LONGEST_WINDOW = timedelta(days=1)  # of a round whose policy pads nothing


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The public instants of one round.

    Attributes:
        starts_at: the instant that the round belongs to.
        told_at: stamped on everything that comes of it.
        ends_at: when it forfeits unless it is closed; its sealed snapshot is destroyed then at the latest.
    """

    starts_at: datetime
    told_at: datetime
    ends_at: datetime


def slot_of(row: RoundRow) -> datetime:
    """Return the public instant that a round belongs to."""
    if row.scheduled_for is not None and timedelta(0) <= row.opened_at - row.scheduled_for <= PROMPT:
        return row.scheduled_for.astimezone(UTC)
    return row.opened_at.astimezone(UTC).replace(microsecond=0)


def told_at(slot: datetime, began: datetime, padding: timedelta) -> datetime:
    """Return when a round of ``slot`` that began at ``began`` is told.

    ``began`` counts only by the window it lies in: it depends on how busy the trainers were.
    """
    if not padding:
        return slot
    return slot + (max(timedelta(0), began - slot) // padding + 2) * padding


def slot_for(row: RoundRow, began: datetime, padding: timedelta) -> Slot:
    """Return the instants of a round that is reserved at ``began``."""
    slot = slot_of(row)
    return Slot(
        starts_at=slot,
        told_at=told_at(slot, began, padding),
        ends_at=told_at(slot, began, padding or LONGEST_WINDOW),
    )


def slots_end(session: Session, tenant_id: str, domain: str, now: datetime) -> datetime | None:
    """Return when the last slot of the line's rounds ends that has not ended yet; ``None`` where all have.

    It is fixed when a round is reserved, so it is the same whether the round is done by now or not.
    """
    return session.exec(
        select(func.max(RoundRow.slot_ends_at)).where(
            RoundRow.tenant_id == tenant_id, RoundRow.domain == domain, col(RoundRow.slot_ends_at) > now
        )
    ).one()
