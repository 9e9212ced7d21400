"""Read and write versions of terms; whoever writes holds the lock of the line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import structlog
from sqlmodel import col, func, select

from personalization.errors import PersonalizationError
from personalization.terms.tables import TermListRow
from personalization.terms.values import SignedTerms, TermList
from privacy.canonical import canonical_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

_log = structlog.get_logger(__name__)
AT_ONCE: Final = 500  # lines in one statement
_Mark = tuple[str, int, str]
"""Line, number and signature of a version."""


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


def newest_readable(session: Session, line_ref: str) -> TermList | None:
    """Return what holds for a line; ``None`` where that cannot be read."""
    newest = select(TermListRow).where(TermListRow.line_ref == line_ref)
    row = session.exec(newest.order_by(col(TermListRow.sequence).desc()).limit(1)).first()
    if row is None:
        return TermList()
    signed = _readable(row)
    return None if signed is None else signed.terms


class NewestTerms:
    """Reads what holds for every line that something was decided about; each version is read once.

    A version is never changed, so its signature says that it is known already. One that cannot be read (damaged, or of
    a later release of this program) is left out and said once: it is one line's, and all others go on.
    """

    def __init__(self) -> None:
        self._known: dict[_Mark, SignedTerms | None] = {}

    def read(self, session: Session) -> dict[str, SignedTerms]:
        """Return what holds now, by line."""
        last = (
            select(TermListRow.line_ref, func.max(TermListRow.sequence).label("sequence"))
            .group_by(col(TermListRow.line_ref))
            .subquery()
        )
        newest = (last.c.line_ref == col(TermListRow.line_ref)) & (
            last.c.sequence == col(TermListRow.sequence)
        )
        marks: set[_Mark] = {
            (line_ref, sequence, signature)
            for line_ref, sequence, signature in session.exec(
                select(TermListRow.line_ref, TermListRow.sequence, TermListRow.signature).join(last, newest)
            )
        }
        self._known = {mark: one for mark, one in self._known.items() if mark in marks}
        lines = sorted({line_ref for line_ref, _, _ in marks - self._known.keys()})
        for first in range(0, len(lines), AT_ONCE):
            rows = session.exec(
                select(TermListRow)
                .join(last, newest)
                .where(col(TermListRow.line_ref).in_(lines[first : first + AT_ONCE]))
            )
            self._known |= {(row.line_ref, row.sequence, row.signature): _readable(row) for row in rows}
        return {line_ref: one for (line_ref, _, _), one in self._known.items() if one is not None}


def _readable(row: TermListRow) -> SignedTerms | None:
    try:
        return read_signed(row)
    except (PersonalizationError, ValueError):
        _log.warning("terms_not_read", line_ref=row.line_ref, sequence=row.sequence)
        return None


def read_signed(row: TermListRow) -> SignedTerms:
    """Return the value that a row stands for.

    Raises:
        TermsError: it is damaged.
    """
    terms = TermList.from_document(json.loads(row.document))
    return SignedTerms(terms=terms, key_id=row.key_id, signature=row.signature)
