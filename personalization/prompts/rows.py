"""Read and write templates and moves; whoever writes holds the lock of the line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlmodel import col, func, select

from personalization.errors import PromptNotFoundError
from personalization.prompts.tables import PromptMoveRow, PromptTemplateRow
from personalization.prompts.values import PromptTemplate, SignedTemplate, name_of
from privacy.canonical import canonical_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlmodel import Session


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
    """Return which templates a line uses; ``None`` where nothing was ever decided."""
    newest = session.exec(
        select(PromptMoveRow)
        .where(PromptMoveRow.line_ref == line_ref)
        .order_by(col(PromptMoveRow.sequence).desc())
        .limit(1)
    ).first()
    if newest is None:
        return None
    return _standings(session, [newest])[line_ref]


def all_standings(session: Session) -> dict[str, Standing]:
    """Return which templates each line uses; lines without any are left out."""
    newest = (
        select(PromptMoveRow.line_ref, func.max(PromptMoveRow.sequence).label("sequence"))
        .group_by(col(PromptMoveRow.line_ref))
        .subquery()
    )
    moves = session.exec(
        select(PromptMoveRow)
        .join(
            newest,
            (newest.c.line_ref == col(PromptMoveRow.line_ref))
            & (newest.c.sequence == col(PromptMoveRow.sequence)),
        )
        .where(col(PromptMoveRow.current).is_not(None) | col(PromptMoveRow.candidate).is_not(None))
    ).all()
    return _standings(session, moves)


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


def _standings(session: Session, moves: Iterable[PromptMoveRow]) -> dict[str, Standing]:
    moves = list(moves)
    wanted = {(one.line_ref, version) for one in moves for version in (one.current, one.candidate)}
    lines = sorted({one.line_ref for one in moves})
    known: dict[tuple[str, str | None], SignedTemplate] = {}
    for first in range(0, len(lines), 500):
        rows = session.exec(
            select(PromptTemplateRow).where(col(PromptTemplateRow.line_ref).in_(lines[first : first + 500]))
        )
        known |= {
            (row.line_ref, row.version_id): read_signed(row)
            for row in rows
            if (row.line_ref, row.version_id) in wanted
        }
    return {
        one.line_ref: Standing(
            current=known.get((one.line_ref, one.current)),
            candidate=known.get((one.line_ref, one.candidate)),
            candidate_percent=one.candidate_percent,
            salt=one.salt,
        )
        for one in moves
    }
