"""When what comes of a round is told: at an instant of the public clock, whatever the training took.

A round belongs to a slot: the one that its schedule names, or the second in which a person opened it. From the slot
on, time is cut into windows of the policy's ``release_padding_seconds``. A round that begins in one window is told at
the end of the next, so that at least one whole window is left for it; a run that is not done by then forfeits at that
instant. With a padding of 0 the slot itself is stamped on what leaves, which then appears as soon as it is done.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from privacy.policy import versions as policies

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.rounds.tables import RoundRow

PROMPT = timedelta(
    minutes=1
)  # a round that is opened later than this after its slot has the opening as its slot


def slot_of(row: RoundRow) -> datetime:
    """Return the public instant that a round belongs to."""
    if row.scheduled_for is not None and row.opened_at - row.scheduled_for <= PROMPT:
        return row.scheduled_for.astimezone(UTC)
    return row.opened_at.astimezone(UTC).replace(microsecond=0)


def told_at(slot: datetime, began: datetime, padding: timedelta) -> datetime:
    """Return when a round of ``slot`` that began at ``began`` is told.

    ``began`` counts only by the window it lies in: it depends on how busy the trainers were.
    """
    if not padding:
        return slot
    return slot + (max(timedelta(0), began - slot) // padding + 2) * padding


def public_instant(session: Session, row: RoundRow, now: datetime) -> datetime:
    """Return when what comes of a round is told: fixed by the policy once it has begun to read."""
    return told_at(slot_of(row), row.read_at or now, _padding(session, row))


def deadline(session: Session, row: RoundRow, now: datetime) -> datetime | None:
    """Return when a round must be done; ``None`` where its policy pads nothing."""
    return public_instant(session, row, now) if _padding(session, row) else None


def _padding(session: Session, row: RoundRow) -> timedelta:
    version = policies.current_policy(session, row.tenant_id)
    return timedelta(0) if version is None else timedelta(seconds=version.policy.release_padding_seconds)
