"""Opening, leasing and closing choices in SQL, and what was chosen on a line.

As with rounds, a trainer passes over choices that another one is taking, and writes only with the epoch it was given.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, or_
from sqlmodel import col, select

from personalization.choices.tables import PromptChoiceRow
from personalization.choices.values import ChoiceOutcome, ChoiceState, ChoiceTerms, Drawn
from personalization.errors import LeaseLostError, PromptChoiceError
from personalization.prompts.values import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from sqlmodel import Session

    from personalization.registry.announcements import Act
    from personalization.registry.tables import AdapterLineRow

_STILL_OPEN: Final = col(PromptChoiceRow.state).in_([state.value for state in ChoiceState if state.open])


@dataclass(frozen=True, kw_only=True)
class ChoiceLease:
    """A trainer's right to work on a choice until ``expires_at``, named by ``epoch``."""

    choice_id: str
    tenant_id: str
    domain: str
    line_ref: str
    owner: str
    epoch: int
    expires_at: datetime


def open_choice(
    session: Session,
    line: AdapterLineRow,
    candidates: Sequence[str],
    *,
    epsilon: float,
    percent: float,
    act: Act,
) -> PromptChoiceRow:
    """Open a choice on a held line; one of each line is open at a time.

    Raises:
        PromptChoiceError: one is open.
    """
    of_the_line = (PromptChoiceRow.tenant_id == line.tenant_id, PromptChoiceRow.domain == line.domain)
    if session.exec(select(PromptChoiceRow).where(*of_the_line, _STILL_OPEN).limit(1)).first() is not None:
        raise PromptChoiceError(
            "a choice of this line is not done yet; `discreet prompts choices` says when it ends, then ask again"
        )
    asked_at = act.now.replace(microsecond=0)
    row = PromptChoiceRow(
        choice_id=str(uuid.uuid4()),
        tenant_id=line.tenant_id,
        domain=line.domain,
        line_ref=line.line_ref,
        candidates_json=json.dumps(list(candidates)),
        epsilon=epsilon,
        percent=percent,
        actor=act.actor,
        reason=act.reason,
        asked_at=asked_at,
        due_at=asked_at,
    )
    session.add(row)
    session.flush()
    return row


def lease_choice(session: Session, owner: str, now: datetime, ttl: timedelta) -> ChoiceLease | None:
    """Take the oldest choice that is due or whose lease ran out, until ``now + ttl``; None if there is none."""
    free = col(PromptChoiceRow.state) == ChoiceState.DUE.value
    ran_out = and_(
        col(PromptChoiceRow.state) == ChoiceState.LEASED.value, col(PromptChoiceRow.lease_expires_at) <= now
    )
    row = session.exec(
        select(PromptChoiceRow)
        .where(or_(free, ran_out), col(PromptChoiceRow.due_at) <= now)
        .order_by(col(PromptChoiceRow.due_at), col(PromptChoiceRow.choice_id))
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        return None
    row.state = ChoiceState.LEASED.value
    row.epoch += 1
    row.lease_owner, row.lease_expires_at = owner, now + ttl
    session.add(row)
    session.flush()
    return ChoiceLease(
        choice_id=row.choice_id,
        tenant_id=row.tenant_id,
        domain=row.domain,
        line_ref=row.line_ref,
        owner=owner,
        epoch=row.epoch,
        expires_at=row.lease_expires_at,
    )


def hold_choice(session: Session, lease: ChoiceLease, now: datetime) -> PromptChoiceRow:
    """Return the leased choice, locked; every write of a trainer goes through here first.

    Raises:
        LeaseLostError: the lease is not this trainer's any more.
    """
    row = session.exec(
        select(PromptChoiceRow)
        .where(PromptChoiceRow.choice_id == lease.choice_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if (
        row is None
        or (row.state, row.epoch, row.lease_owner) != (ChoiceState.LEASED.value, lease.epoch, lease.owner)
        or row.lease_expires_at is None
        or row.lease_expires_at <= now
    ):
        raise LeaseLostError(
            f"the lease of choice {lease.choice_id} with epoch {lease.epoch} was lost; nothing was written"
        )
    return row


def put_down(session: Session, row: PromptChoiceRow, *, until: datetime) -> None:
    """End the lease of a held choice; it is taken up again from ``until`` on."""
    row.due_at = until
    row.lease_owner, row.lease_expires_at = None, row.asked_at
    session.add(row)


def close_choice(
    session: Session, row: PromptChoiceRow, state: ChoiceState, outcome: ChoiceOutcome, *, now: datetime
) -> None:
    """Close a held choice for good; what was drawn and not told is destroyed."""
    row.state, row.outcome, row.closed_at = state.value, outcome.value, now
    row.lease_owner = row.lease_expires_at = None
    if state is not ChoiceState.DONE:
        row.drawn_json = None
    session.add(row)


def choices_of(session: Session, tenant_id: str, domain: str, *, limit: int) -> Sequence[PromptChoiceRow]:
    """Return the newest choices of a line, newest first, however they ended.

    They are asked for in whole seconds: of two within one second the open one is the newer, as one is open at a time.
    """
    return session.exec(
        select(PromptChoiceRow)
        .where(PromptChoiceRow.tenant_id == tenant_id, PromptChoiceRow.domain == domain)
        .order_by(
            col(PromptChoiceRow.asked_at).desc(),
            case((_STILL_OPEN, 0), else_=1),
            col(PromptChoiceRow.closed_at).desc(),
            col(PromptChoiceRow.choice_id),
        )
        .limit(limit)
    ).all()


def facts_of(row: PromptChoiceRow) -> dict[str, Any]:
    """Return what may be said of a choice, JSON-ready: what is drawn and not yet told is not in it.

    Of one whose row is damaged what can be read is told, and that it is ``damaged``; the others of its line are told
    all the same.
    """
    candidates, drawn, damaged = _told_of(row)
    return {
        "choice_id": row.choice_id,
        "candidates": candidates,
        "epsilon": row.epsilon,
        "percent": row.percent,
        "actor": row.actor,
        "reason": row.reason,
        "asked_at": row.asked_at.isoformat(),
        "state": row.state,
        "outcome": row.outcome,
        "drawn": drawn,
        "template": None if row.chosen is None else name_of(row.chosen),
        "reservation_id": row.reservation_id,
        "closed_at": None if row.closed_at is None else row.closed_at.isoformat(),
        "damaged": damaged,
    }


def facts_shown(row: PromptChoiceRow, shown_at: datetime) -> dict[str, Any]:
    """Return what the tenant's own may see of a choice: ``facts_of`` as it stands at public instants alone.

    How long votes take depends on users' texts. So what was reserved is open until the instant at which it is told, and
    what ended before without being told closed at that instant.

    Args:
        row: the choice.
        shown_at: the present.
    """
    facts = facts_of(row)
    if row.terms_json is None or row.state == ChoiceState.DONE.value:
        return facts  # nothing was read, or it was told
    try:
        told_at = ChoiceTerms.from_json(row.terms_json).told_at
    except PromptChoiceError:
        return {
            **facts,
            "state": ChoiceState.LEASED.value,
            "outcome": None,
            "closed_at": None,
            "damaged": True,
        }
    if shown_at < told_at:
        return {**facts, "state": ChoiceState.LEASED.value, "outcome": None, "closed_at": None}
    closed_at = None if row.closed_at is None else max(row.closed_at, told_at).isoformat()
    return {**facts, "closed_at": closed_at}


def _told_of(row: PromptChoiceRow) -> tuple[list[str], str | None, bool]:
    """Return the names of the candidates and of the one that was drawn and told, and whether either is damaged."""
    candidates: list[str] = []
    try:
        candidates = [name_of(one) for one in json.loads(row.candidates_json)]
        if row.state != ChoiceState.DONE.value or row.drawn_json is None:
            return candidates, None, False
        return candidates, name_of(Drawn.read(row.drawn_json, None).candidate), False
    except (PromptChoiceError, ValueError, TypeError, AttributeError):
        return candidates, None, True


def choices_between(
    session: Session, tenant_id: str, domain: str, since: datetime, until: datetime | None
) -> list[dict[str, Any]]:
    """Return the choices of a line that were told while a version was served, JSON-ready, oldest first.

    Args:
        session: the caller's transaction.
        tenant_id: whose line.
        domain: which.
        since: when the version came.
        until: when it left; ``None``: it has not.
    """
    query = select(PromptChoiceRow).where(
        PromptChoiceRow.tenant_id == tenant_id,
        PromptChoiceRow.domain == domain,
        PromptChoiceRow.state == ChoiceState.DONE.value,
        col(PromptChoiceRow.closed_at) >= since,
    )
    if until is not None:
        query = query.where(col(PromptChoiceRow.closed_at) < until)
    return [facts_of(row) for row in session.exec(query.order_by(col(PromptChoiceRow.asked_at)))]


def chosen_digests(session: Session, tenant_id: str | None = None) -> dict[str, str]:
    """Return of every choice that was told the digest of what was drawn, by its reservation."""
    query = select(PromptChoiceRow.reservation_id, PromptChoiceRow.drawn_json).where(
        PromptChoiceRow.state == ChoiceState.DONE.value
    )
    if tenant_id is not None:
        query = query.where(PromptChoiceRow.tenant_id == tenant_id)
    return {
        str(reservation_id): _digest_of(stored)
        for reservation_id, stored in session.exec(query)
        if reservation_id
    }


def _digest_of(stored: str | None) -> str:
    try:
        return "" if stored is None else Drawn.read(stored, None).digest()
    except PromptChoiceError:
        return ""  # no digest of the ledger's
