"""Strike, fix or leave entries of a tenant's style card; each is a public act with an actor and a reason, and audited.

A round freezes what is decided when it is reserved (``current_edits``), so a decision reaches the next version; the
card of a version that is out already never changes. The audit trail names an entry by its handle, never by its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sqlmodel import col, select

from personalization.errors import StyleCardError, StyleEntryNotFoundError
from personalization.styles.edits import MOST_EDITS, StyleEdits, pinned_document, pinned_entry
from personalization.styles.tables import StyleEditRow
from privacy.audit import trail as audit_trail
from privacy.policy.versions import lock_tenant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.styles.card import StyleCard, StyleEntry

LONGEST_REASON: Final = 500


class Decision(StrEnum):
    """What a person can decide about an entry."""

    REMOVE = "remove"
    PIN = "pin"
    UNDO = "undo"  # what was decided before no longer holds


_ACTIONS: Final = {
    Decision.REMOVE: "style.entry_struck",
    Decision.PIN: "style.entry_pinned",
    Decision.UNDO: "style.decision_undone",
}


@dataclass(frozen=True, kw_only=True)
class StyleAct:
    """Whose card, who decides, and why.

    Attributes:
        tenant_id: whose line.
        domain: which line.
        actor: who asks.
        reason: one public sentence.
        now: aware UTC.
    """

    tenant_id: str
    domain: str
    actor: str
    reason: str
    now: datetime

    def __post_init__(self) -> None:
        if not self.reason.strip() or len(self.reason) > LONGEST_REASON:
            raise StyleCardError(f"a decision needs a reason of 1 to {LONGEST_REASON} characters")


def find_entry(card: StyleCard, given: str) -> StyleEntry:
    """Return the entry of a card that a person names by its handle or by its whole name.

    Raises:
        StyleEntryNotFoundError: the card has none of that name.
    """
    for one in card.entries:
        if given in {one.handle, one.name}:
            return one
    raise StyleEntryNotFoundError(
        f"the style card has no entry {given[:80]!r}; show the card and copy the handle of one of its "
        f"{len(card.entries)} entries"
    )


def strike(session: Session, act: StyleAct, entry: StyleEntry) -> None:
    """Leave an entry out of all later cards, however many users have it."""
    _keep(session, act, Decision.REMOVE, entry.handle, entry.feature.value, None)


def pin(session: Session, act: StyleAct, entry: StyleEntry) -> None:
    """Hold an entry in all later cards with the share it has now, found again or not."""
    _keep(session, act, Decision.PIN, entry.handle, entry.feature.value, entry)


def undo(session: Session, act: StyleAct, handle: str) -> None:
    """Leave an entry to the vote again.

    Raises:
        StyleEntryNotFoundError: nothing is decided about it.
    """
    standing = {row.handle: row for row in _standing(session, act.tenant_id, act.domain)}
    if handle not in standing:
        raise StyleEntryNotFoundError(
            f"nothing is decided about entry {handle!r}; decided are: {', '.join(sorted(standing)) or 'none'}"
        )
    _keep(session, act, Decision.UNDO, handle, standing[handle].feature, None)


def current_edits(session: Session, tenant_id: str, domain: str) -> StyleEdits:
    """Return what stands decided about a line's card."""
    rows = _standing(session, tenant_id, domain)
    return StyleEdits(
        removed=tuple(row.handle for row in rows if row.decision == Decision.REMOVE),
        pinned=tuple(pinned_entry(row.entry) for row in rows if row.decision == Decision.PIN),
    )


def history(session: Session, tenant_id: str, domain: str) -> Sequence[StyleEditRow]:
    """Return every act on a line's card, the oldest first."""
    return session.exec(
        select(StyleEditRow)
        .where(StyleEditRow.tenant_id == tenant_id, StyleEditRow.domain == domain)
        .order_by(col(StyleEditRow.sequence))
    ).all()


def _standing(session: Session, tenant_id: str, domain: str) -> list[StyleEditRow]:
    """Return the last act on each entry that still stands, in the order in which they were done."""
    latest = {row.handle: row for row in history(session, tenant_id, domain)}
    return sorted(
        (row for row in latest.values() if row.decision != Decision.UNDO), key=lambda row: row.sequence
    )


def _keep(
    session: Session, act: StyleAct, decision: Decision, handle: str, feature: str, entry: StyleEntry | None
) -> None:
    lock_tenant(session, act.tenant_id)  # two acts at once would take one number
    done = history(session, act.tenant_id, act.domain)
    standing = {row.handle for row in _standing(session, act.tenant_id, act.domain)}
    if decision is not Decision.UNDO and len(standing | {handle}) > MOST_EDITS:
        raise StyleCardError(f"at most {MOST_EDITS} entries of a card can be decided on; undo one first")
    session.add(
        StyleEditRow(
            tenant_id=act.tenant_id,
            domain=act.domain,
            sequence=len(done) + 1,
            handle=handle,
            decision=decision.value,
            feature=feature,
            entry=None if entry is None else pinned_document(entry),
            actor=act.actor,
            reason=act.reason,
            at=act.now,
        )
    )
    audit_trail.append(
        session,
        act.tenant_id,
        actor=act.actor,
        action=_ACTIONS[decision],
        detail={"domain": act.domain, "entry": handle, "feature": feature, "reason": act.reason},
        now=act.now,
    )
