"""Opening, leasing and closing readings of drift in SQL, and what was released of a line.

As with rounds, a trainer passes over readings that another one is taking, and writes only with the epoch it was given.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, or_
from sqlmodel import col, select

from personalization.drift.features import VERSION
from personalization.drift.tables import DriftReadingRow
from personalization.drift.values import Histogram, Judgement, ReadingOutcome, ReadingState
from personalization.errors import DriftError, LeaseLostError
from personalization.registry import queries as registry
from privacy.canonical import digest_of
from privacy.policy.due import Look, due_tenants, look_again

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.policy.due import DueTenant

MOST_AT_ONCE: Final = 50  # tenants in one transaction of a tick
BLOCKED_PAUSE: Final = timedelta(
    seconds=30
)  # until a line whose last reading is still open is looked at again
_OPEN: Final = [state.value for state in ReadingState if state.open]


@dataclass(frozen=True, kw_only=True)
class ReadingLease:
    """A trainer's right to work on a reading until ``expires_at``, named by ``epoch``."""

    reading_id: str
    tenant_id: str
    domain: str
    line_ref: str
    owner: str
    epoch: int
    expires_at: datetime


def open_due_readings(session: Session, now: datetime, *, most: int = MOST_AT_ONCE) -> tuple[int, int]:
    """Open a reading for every line whose schedule of readings has come to a new slot.

    Only the policy and the public clock decide; calling it twice opens nothing twice, and missed slots are not made up
    for.

    Args:
        session: inside the caller's transaction.
        now: the public clock.
        most: tenants that are looked at in one call; the others are next.

    Returns:
        How many tenants were looked at, and how many readings were opened.
    """
    opened = 0
    next_looks: dict[DueTenant, datetime | None] = {}
    for due in due_tenants(session, now, most=most, look=Look.DRIFT):
        if due.policy is None or not due.policy.drift.read:
            next_looks[due] = None
            continue
        schedule = due.policy.drift_schedule
        index = schedule.due_index(now)
        if index is None or index < 1:
            next_looks[due] = schedule.due_at(1)
            continue
        slot, following, blocked = schedule.due_at(index), schedule.due_at(index + 1), False
        for domain in due.policy.domains:
            refused = _refused(session, due.tenant_id, domain, slot)
            if refused is None:
                _open(session, due.tenant_id, domain, slot, now)
                opened += 1
            blocked = blocked or refused is True
        next_looks[due] = min(following, now + BLOCKED_PAUSE) if blocked else following
    look_again(session, next_looks, Look.DRIFT)
    return len(next_looks), opened


def _refused(session: Session, tenant_id: str, domain: str, slot: datetime) -> bool | None:
    """Return None where a line gets a reading for ``slot``; True where its last one is open, else False."""
    rows = session.exec(
        select(DriftReadingRow.scheduled_for, DriftReadingRow.state).where(
            DriftReadingRow.tenant_id == tenant_id,
            DriftReadingRow.domain == domain,
            or_(
                col(DriftReadingRow.scheduled_for) == slot,
                # one that is drawn waits for its instant alone, which may be later than the next slot
                and_(col(DriftReadingRow.state).in_(_OPEN), col(DriftReadingRow.histogram_json).is_(None)),
            ),
        )
    ).all()
    if any(at == slot for at, _ in rows):
        return False
    return True if rows else None


def _open(session: Session, tenant_id: str, domain: str, slot: datetime, now: datetime) -> None:
    line = registry.lock_line(session, registry.ensure_line(session, tenant_id, domain, now=now).line_ref)
    if _refused(session, tenant_id, domain, slot) is not None:
        return  # another trainer was faster
    session.add(
        DriftReadingRow(
            reading_id=str(uuid.uuid4()),
            tenant_id=tenant_id,
            domain=domain,
            line_ref=line.line_ref,
            scheduled_for=slot,
            due_at=slot,
        )
    )
    session.flush()


def lease_reading(session: Session, owner: str, now: datetime, ttl: timedelta) -> ReadingLease | None:
    """Take the oldest reading that is due or whose lease ran out, until ``now + ttl``; None if there is none."""
    free = col(DriftReadingRow.state) == ReadingState.DUE.value
    ran_out = and_(
        col(DriftReadingRow.state) == ReadingState.LEASED.value, col(DriftReadingRow.lease_expires_at) <= now
    )
    row = session.exec(
        select(DriftReadingRow)
        .where(or_(free, ran_out), col(DriftReadingRow.due_at) <= now)
        .order_by(col(DriftReadingRow.due_at), col(DriftReadingRow.reading_id))
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        return None
    row.state = ReadingState.LEASED.value
    row.epoch += 1
    row.lease_owner, row.lease_expires_at = owner, now + ttl
    session.add(row)
    session.flush()
    return ReadingLease(
        reading_id=row.reading_id,
        tenant_id=row.tenant_id,
        domain=row.domain,
        line_ref=row.line_ref,
        owner=owner,
        epoch=row.epoch,
        expires_at=row.lease_expires_at,
    )


def hold_reading(session: Session, lease: ReadingLease, now: datetime) -> DriftReadingRow:
    """Return the leased reading, locked; every write of a trainer goes through here first.

    Raises:
        LeaseLostError: the lease is not this trainer's any more.
    """
    row = session.exec(
        select(DriftReadingRow)
        .where(DriftReadingRow.reading_id == lease.reading_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if (
        row is None
        or (row.state, row.epoch, row.lease_owner) != (ReadingState.LEASED.value, lease.epoch, lease.owner)
        or row.lease_expires_at is None
        or row.lease_expires_at <= now
    ):
        raise LeaseLostError(
            f"the lease of reading {lease.reading_id} with epoch {lease.epoch} was lost; nothing was written"
        )
    return row


def put_down(session: Session, row: DriftReadingRow, *, until: datetime) -> None:
    """End the lease of a held reading; it is taken up again from ``until`` on."""
    row.due_at = until
    row.lease_owner, row.lease_expires_at = None, row.scheduled_for
    session.add(row)


def close_reading(
    session: Session, row: DriftReadingRow, state: ReadingState, outcome: ReadingOutcome, *, now: datetime
) -> None:
    """Close a held reading for good; what was drawn and not released is destroyed."""
    row.state, row.outcome, row.closed_at = state.value, outcome.value, now
    row.lease_owner = row.lease_expires_at = None
    if state is not ReadingState.DONE:
        row.histogram_json = None
    session.add(row)


def released(session: Session, tenant_id: str, domain: str, *, most: int) -> list[DriftReadingRow]:
    """Return the newest released readings of a line, oldest first."""
    rows = session.exec(
        select(DriftReadingRow)
        .where(
            DriftReadingRow.tenant_id == tenant_id,
            DriftReadingRow.domain == domain,
            DriftReadingRow.state == ReadingState.DONE.value,
        )
        .order_by(col(DriftReadingRow.scheduled_for).desc())
        .limit(most)
    ).all()
    return list(reversed(rows))


def comparable(rows: Sequence[DriftReadingRow]) -> list[Histogram]:
    """Return what was released since the newest alarm's change, of bins that this version knows, oldest first."""
    begin: datetime | None = None
    for row in rows:
        judgement = judgement_of(row)
        if judgement is not None and judgement.drifted and judgement.since is not None:
            begin = judgement.since
    found = (histogram_of(row) for row in rows)
    return [one for one in found if one is not None and (begin is None or one.since >= begin)]


def histogram_of(row: DriftReadingRow) -> Histogram | None:
    """Return the stored histogram of a reading; None where it has none, or one of other bins.

    Raises:
        DriftError: it is damaged.
    """
    document = _document(row.histogram_json)
    if document is None or document.get("bins") != VERSION:
        return None
    return Histogram.from_document(document)


def judgement_of(row: DriftReadingRow) -> Judgement | None:
    """Return what was said of a reading; None where nothing was.

    Raises:
        DriftError: it is damaged.
    """
    document = _document(row.judgement_json)
    return None if document is None else Judgement.from_document(document)


def list_readings(session: Session, tenant_id: str, domain: str, *, limit: int) -> Sequence[DriftReadingRow]:
    """Return the newest readings of a line, newest first, however they ended."""
    return session.exec(
        select(DriftReadingRow)
        .where(DriftReadingRow.tenant_id == tenant_id, DriftReadingRow.domain == domain)
        .order_by(col(DriftReadingRow.scheduled_for).desc())
        .limit(limit)
    ).all()


def alarms_between(
    session: Session, tenant_id: str, domain: str, since: datetime, until: datetime | None
) -> list[dict[str, Any]]:
    """Return the alarms of a line that were told while a version was served, JSON-ready, oldest first.

    Args:
        session: the caller's transaction.
        tenant_id: whose line.
        domain: which.
        since: when the version came.
        until: when it left; ``None``: it has not.
    """
    query = select(DriftReadingRow).where(
        DriftReadingRow.tenant_id == tenant_id,
        DriftReadingRow.domain == domain,
        DriftReadingRow.state == ReadingState.DONE.value,
        col(DriftReadingRow.closed_at) >= since,
    )
    if until is not None:
        query = query.where(col(DriftReadingRow.closed_at) < until)
    found = []
    for row in session.exec(query.order_by(col(DriftReadingRow.scheduled_for))):
        judgement = judgement_of(row)
        if judgement is not None and judgement.drifted and row.closed_at is not None:
            found.append(
                {
                    "at": row.closed_at.isoformat(),
                    "since": None if judgement.since is None else judgement.since.isoformat(),
                    "family": judgement.family,
                    "statistic": judgement.statistic,
                    "threshold": judgement.threshold,
                    "followed": row.followed,
                }
            )
    return found


def released_digests(session: Session, tenant_id: str | None = None) -> dict[str, str]:
    """Return of every released reading the digest of its histogram, by its reservation."""
    query = select(DriftReadingRow.reservation_id, DriftReadingRow.histogram_json).where(
        DriftReadingRow.state == ReadingState.DONE.value
    )
    if tenant_id is not None:
        query = query.where(DriftReadingRow.tenant_id == tenant_id)
    return {
        str(reservation_id): _digest_of(stored)
        for reservation_id, stored in session.exec(query)
        if reservation_id
    }


def _digest_of(stored: str | None) -> str:
    return "" if stored is None else digest_of(json.loads(stored), ascii_only=True)


def _document(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DriftError("what is stored of a reading is damaged; run `discreet budget verify`") from error
    return document if isinstance(document, dict) else None
