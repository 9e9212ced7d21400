"""Read and write versions of terms; whoever writes holds the lock of the line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlmodel import col, func, select

from personalization.terms.tables import TermListRow
from personalization.terms.values import SignedTerms, TermList
from privacy.canonical import canonical_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session


def keep(
    session: Session,
    line_ref: str,
    signed: SignedTerms,
    *,
    decision: str,
    actor: str,
    reason: str,
    now: datetime,
) -> None:
    """Append a version; it holds from now on."""
    newest = session.exec(
        select(func.max(TermListRow.sequence)).where(TermListRow.line_ref == line_ref)
    ).one()
    session.add(
        TermListRow(
            line_ref=line_ref,
            sequence=(newest or 0) + 1,
            version_id=signed.terms.version_id,
            document=canonical_text(signed.terms.to_document()),
            key_id=signed.key_id,
            signature=signed.signature,
            decision=decision,
            actor=actor,
            reason=reason,
            at=now,
        )
    )
    session.flush()


def history(session: Session, line_ref: str) -> Sequence[TermListRow]:
    """Return every version of a line, oldest first."""
    return session.exec(
        select(TermListRow).where(TermListRow.line_ref == line_ref).order_by(col(TermListRow.sequence))
    ).all()


def newest(session: Session, line_ref: str) -> TermList:
    """Return what holds for a line; where nothing was ever decided, terms are off."""
    row = session.exec(
        select(TermListRow)
        .where(TermListRow.line_ref == line_ref)
        .order_by(col(TermListRow.sequence).desc())
        .limit(1)
    ).first()
    return TermList() if row is None else read_signed(row).terms


def all_newest(session: Session) -> dict[str, SignedTerms]:
    """Return what holds for every line that something was decided about."""
    last = (
        select(TermListRow.line_ref, func.max(TermListRow.sequence).label("sequence"))
        .group_by(col(TermListRow.line_ref))
        .subquery()
    )
    found = session.exec(
        select(TermListRow).join(
            last,
            (last.c.line_ref == col(TermListRow.line_ref)) & (last.c.sequence == col(TermListRow.sequence)),
        )
    )
    return {row.line_ref: read_signed(row) for row in found}


def read_signed(row: TermListRow) -> SignedTerms:
    """Return the value that a row stands for.

    Raises:
        TermsError: it is damaged.
    """
    terms = TermList.from_document(json.loads(row.document))
    return SignedTerms(terms=terms, key_id=row.key_id, signature=row.signature)
