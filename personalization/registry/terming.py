"""What people decide about a line's terms: how they are used, which are added, kept, struck; and going back.

Each decision is one transaction: a version that never changes, an audit record that names terms by digests alone, and
an event of the line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from personalization.errors import TermsError
from personalization.registry import queries as registry
from personalization.registry.announcements import AdapterEventKind, announce
from personalization.terms import rows
from personalization.terms.values import SignedTerms, TermList, TermUse, signed_bytes
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlmodel import Session

    from personalization.adapters.signing import ManifestSigner
    from personalization.registry.announcements import Act, AdapterEvents
    from personalization.terms.values import TermPair

LONGEST_REASON: Final = 500


def decide(
    session: Session,
    events: AdapterEvents,
    signer: ManifestSigner,
    tenant_id: str,
    domain: str,
    decision: str,
    change: Callable[[TermList], TermList],
    act: Act,
) -> TermList:
    """Make a change to a line's terms and return what holds then.

    Args:
        session: the caller's transaction.
        events: where it is told.
        signer: vouches for the version.
        tenant_id: whose line.
        domain: which; the line is made where there is none yet.
        decision: what is done, in a word.
        change: returns the new version; it may raise ``TermsError``.
        act: who decides, why and when.

    Raises:
        TermsError: the change cannot be, or changes nothing.
    """
    if not act.reason.strip() or len(act.reason) > LONGEST_REASON:
        raise TermsError(f"a reason of 1 to {LONGEST_REASON} characters is needed; auditors see it")
    found = registry.ensure_line(session, tenant_id, domain, now=act.now)
    line = registry.lock_line(session, found.line_ref)
    before = rows.newest(session, line.line_ref)
    terms = change(before)
    if terms == before:
        raise TermsError("the terms are as they were; nothing was changed")
    signature = signer.sign_bytes(signed_bytes(line.line_ref, terms))
    signed = SignedTerms(terms=terms, key_id=signature.key_id, signature=signature.signature)
    rows.keep(
        session,
        line.line_ref,
        signed,
        decision=decision,
        actor=act.actor,
        reason=act.reason,
        now=act.now,
    )
    audit_trail.append(
        session,
        line.tenant_id,
        actor=act.actor,
        action=f"terms.{decision}",
        detail={"line_ref": line.line_ref, "version_id": terms.version_id, "reason": act.reason},
        now=act.now,
    )
    announce(session, events, line, AdapterEventKind.TERMS_CHANGED, act)
    return terms


def using(use: TermUse) -> Callable[[TermList], TermList]:
    """Return the change to how terms are used."""
    return lambda terms: replace(terms, use=use)


def adding(pairs: Sequence[TermPair]) -> Callable[[TermList], TermList]:
    """Return the change that adds terms."""
    return lambda terms: terms.with_pairs(pairs)


def proposing(pairs: Sequence[TermPair]) -> Callable[[TermList], TermList]:
    """Return the change that lists pairs for users to vote over."""
    return lambda terms: terms.proposing(pairs)


def proposed_pairs(session: Session, line_ref: str) -> tuple[tuple[str, str], ...] | None:
    """Return the public pairs (written, meant) that a line's users vote over; ``None`` where they cannot be read.

    Without any, users vote over words of their own; of a list that cannot be read nobody knows that it has none.
    """
    terms = rows.newest_readable(session, line_ref)
    return None if terms is None else tuple((one.written, one.meant) for one in terms.proposed)


def going_back(session: Session, tenant_id: str, domain: str) -> Callable[[TermList], TermList]:
    """Return the change to what held before what holds now; each goes one further back, and none comes forward.

    Raises:
        TermsError: there is nothing to go back to.
    """
    line = registry.find_line(session, tenant_id, domain)
    held: list[TermList] = [TermList()]
    for row in () if line is None else rows.history(session, line.line_ref):
        if row.decision == "roll_back":
            held.pop()
        else:
            held.append(rows.read_signed(row).terms)
    if len(held) < 2:
        raise TermsError("the line never had other terms; there is nothing to go back to")
    return lambda _: held[-2]
