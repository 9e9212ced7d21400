"""Read and write templates and moves; whoever writes holds the lock of the line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import select as select_columns
from sqlmodel import col, func, select

from personalization.errors import PersonalizationError, PromptNotFoundError
from personalization.prompts.tables import PromptMoveRow, PromptTemplateRow
from personalization.prompts.values import PromptTemplate, SignedTemplate, name_of
from privacy.canonical import canonical_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row
    from sqlmodel import Session

_log = structlog.get_logger(__name__)
AT_ONCE: Final = 500  # lines in one statement
_OF_MOVE: Final = ("line_ref", "current", "candidate", "candidate_percent", "salt")
_Mark = tuple[str, str, str]
"""Line, version and signature of a template."""


class Decision(StrEnum):
    """What a person can decide about a line's prompts."""

    USE = "use"  # everybody gets the version
    TRY = "try"  # a share of the subjects gets it
    LEAVE = "leave"  # nobody gets the candidate any more
    ROLL_BACK = "roll_back"  # the version that was used before
    STOP = "stop"  # none


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Which templates a line uses.

    Attributes:
        current: for all subjects that do not get the candidate; ``None``: no operator's template.
        candidate: for a share of them.
        candidate_percent: how large a share.
        salt: of the draw of subjects.
    """

    current: SignedTemplate | None = None
    candidate: SignedTemplate | None = None
    candidate_percent: float = 0.0
    salt: str = ""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One decision: what a line uses after it, and who decided it, why and when."""

    decision: Decision
    current: str | None = None
    candidate: str | None = None
    candidate_percent: float = 0.0
    salt: str = ""
    actor: str
    reason: str
    at: datetime


def keep(
    session: Session, line_ref: str, signed: SignedTemplate, *, actor: str, reason: str, now: datetime
) -> PromptTemplateRow:
    """Store a version that the line does not have yet."""
    row = PromptTemplateRow(
        line_ref=line_ref,
        version_id=signed.template.version_id,
        number=signed.number,
        document=canonical_text(signed.template.to_document()),
        key_id=signed.key_id,
        signature=signed.signature,
        actor=actor,
        reason=reason,
        at=now,
    )
    session.add(row)
    session.flush()
    return row


def versions_of(session: Session, line_ref: str) -> Sequence[PromptTemplateRow]:
    """Return every version of a line, oldest first."""
    return session.exec(
        select(PromptTemplateRow)
        .where(PromptTemplateRow.line_ref == line_ref)
        .order_by(col(PromptTemplateRow.number))
    ).all()


def find(session: Session, line_ref: str, name: str) -> PromptTemplateRow:
    """Return the version of a line by its number, its name, or its whole id.

    Raises:
        PromptNotFoundError: the line has none such.
    """
    for row in versions_of(session, line_ref):
        if name in {str(row.number), f"v{row.number}", name_of(row.version_id), row.version_id}:
            return row
    raise PromptNotFoundError(
        f"the line has no prompt template {name[:80]!r}; list its templates and copy a name or number"
    )


def moves_of(session: Session, line_ref: str) -> list[Move]:
    """Return every decision about a line, oldest first."""
    found = session.exec(
        select(PromptMoveRow).where(PromptMoveRow.line_ref == line_ref).order_by(col(PromptMoveRow.sequence))
    )
    return [
        Move(
            decision=Decision(row.decision),
            current=row.current,
            candidate=row.candidate,
            candidate_percent=row.candidate_percent,
            salt=row.salt,
            actor=row.actor,
            reason=row.reason,
            at=row.at,
        )
        for row in found
    ]


def append_move(session: Session, line_ref: str, move: Move) -> None:
    """Append a decision; its number is the next of the line."""
    newest = session.exec(
        select(func.max(PromptMoveRow.sequence)).where(PromptMoveRow.line_ref == line_ref)
    ).one()
    session.add(
        PromptMoveRow(
            line_ref=line_ref,
            sequence=(newest or 0) + 1,
            decision=move.decision.value,
            current=move.current,
            candidate=move.candidate,
            candidate_percent=move.candidate_percent,
            salt=move.salt,
            actor=move.actor,
            reason=move.reason,
            at=move.at,
        )
    )
    session.flush()


def standing_of(session: Session, line_ref: str) -> Standing | None:
    """Return which templates a line uses; ``None`` where nothing was ever decided.

    One that cannot be read is none: whatever else happens to the line (a kill switch, a withdrawal) tells how its
    prompts stand, and must not wait for it.
    """
    newest = session.exec(
        select(PromptMoveRow)
        .where(PromptMoveRow.line_ref == line_ref)
        .order_by(col(PromptMoveRow.sequence).desc())
        .limit(1)
    ).first()
    if newest is None:
        return None
    versions = [one for one in (newest.current, newest.candidate) if one is not None]
    rows = session.exec(
        select(PromptTemplateRow).where(
            PromptTemplateRow.line_ref == line_ref, col(PromptTemplateRow.version_id).in_(versions)
        )
    )
    return _standing(newest, {(line_ref, row.version_id): _readable(row) for row in rows})


class Standings:
    """Reads which templates each line uses; each template is read once.

    A version is never changed, so its signature says that it is known already. One that cannot be read (damaged, or of
    a later release of this program) is left out and said once: it is one line's, and all others go on.
    """

    def __init__(self) -> None:
        self._known: dict[_Mark, SignedTemplate | None] = {}

    def read(self, session: Session) -> dict[str, Standing]:
        """Return which templates lines use now; lines without any are left out."""
        last = (
            select(PromptMoveRow.line_ref, func.max(PromptMoveRow.sequence).label("sequence"))
            .group_by(col(PromptMoveRow.line_ref))
            .subquery()
        )
        newest = (last.c.line_ref == col(PromptMoveRow.line_ref)) & (
            last.c.sequence == col(PromptMoveRow.sequence)
        )
        used = (col(PromptTemplateRow.line_ref) == col(PromptMoveRow.line_ref)) & (
            (col(PromptTemplateRow.version_id) == col(PromptMoveRow.current))
            | (col(PromptTemplateRow.version_id) == col(PromptMoveRow.candidate))
        )
        of_move = (col(getattr(PromptMoveRow, name)) for name in _OF_MOVE)
        moves = (
            session.connection()
            .execute(
                select_columns(*of_move)
                .join(last, newest)
                .where(col(PromptMoveRow.current).is_not(None) | col(PromptMoveRow.candidate).is_not(None))
            )
            .all()
        )
        marks: set[_Mark] = {
            (line_ref, version_id, signature)
            for line_ref, version_id, signature in session.exec(
                select(PromptTemplateRow.line_ref, PromptTemplateRow.version_id, PromptTemplateRow.signature)
                .join(PromptMoveRow, used)
                .join(last, newest)
            )
        }
        self._known = {mark: one for mark, one in self._known.items() if mark in marks}
        lines = sorted({line_ref for line_ref, _, _ in marks - self._known.keys()})
        for first in range(0, len(lines), AT_ONCE):
            rows = session.exec(
                select(PromptTemplateRow).where(
                    col(PromptTemplateRow.line_ref).in_(lines[first : first + AT_ONCE])
                )
            )
            found = {(row.line_ref, row.version_id, row.signature): row for row in rows}
            fresh = (found.keys() & marks) - self._known.keys()
            self._known |= {mark: _readable(found[mark]) for mark in fresh}
        by_version = {(line_ref, version): one for (line_ref, version, _), one in self._known.items()}
        return {move.line_ref: _standing(move, by_version) for move in moves}


def read_signed(row: PromptTemplateRow) -> SignedTemplate:
    """Return the value that a row stands for.

    Raises:
        PromptTemplateError: it is damaged.
    """
    return SignedTemplate(
        template=PromptTemplate.from_document(json.loads(row.document)),
        number=row.number,
        key_id=row.key_id,
        signature=row.signature,
    )


def _readable(row: PromptTemplateRow) -> SignedTemplate | None:
    try:
        return read_signed(row)
    except (PersonalizationError, ValueError):
        _log.warning("prompt_template_not_read", line_ref=row.line_ref, version_id=row.version_id)
        return None


def _standing(
    move: PromptMoveRow | Row[Any], known: Mapping[tuple[str, str], SignedTemplate | None]
) -> Standing:
    return Standing(
        current=None if move.current is None else known.get((move.line_ref, move.current)),
        candidate=None if move.candidate is None else known.get((move.line_ref, move.candidate)),
        candidate_percent=move.candidate_percent,
        salt=move.salt,
    )
