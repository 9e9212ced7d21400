"""The rollout tick of a worker's chores: look at every rollout that is due, and carry out what is decided.

What does not move is put off in bulk. Each move is a transaction of its own: the line is locked, everything is read and
decided again under the lock, and the transition, its event and the desired state are stored together. So any number of
workers may tick at once, and one that dies changes nothing: the next tick decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from personalization.errors import PersonalizationError
from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.succession import carry_out
from personalization.rollouts import rows as rollouts
from personalization.rollouts.deciding import LOOK, decide, look_at
from privacy.errors import PrivacyError, StorageError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.registry.announcements import AdapterEvents
    from personalization.rollouts.tables import RolloutRow

    Acks = Callable[[Session, Collection[str]], Mapping[str, tuple[int, int]]]
    """Says, of the versions of some lines, how many servers verified each, and how many failed to."""

_log = structlog.get_logger(__name__)
LINES: Final = 1_000  # looked at in one transaction
ACTOR: Final = "schedule"


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """What one tick did."""

    looked: int = 0
    moved: int = 0
    failed: int = 0


class RolloutTick:
    """Moves rollouts by the clock and the evidence.

    Args:
        engine: the database.
        events: where transitions are told, signed.
        acks: what servers say of candidates.
        lines: how many are looked at in one transaction.
    """

    def __init__(self, engine: Engine, events: AdapterEvents, acks: Acks, *, lines: int = LINES) -> None:
        self._engine = engine
        self._events = events
        self._acks = acks
        self._lines = lines

    def run(self, *, now: datetime, check: Callable[[Session, datetime], None] | None = None) -> Ticked:
        """Look at all that is due at ``now``.

        Args:
            now: the public clock.
            check: raises where the clock must not be trusted.

        Raises:
            StorageError: the database is away; what was moved so far stays moved.
        """
        looked = moved = failed = 0
        while True:
            with transaction(self._engine) as session:
                if check is not None:
                    check(session, now)
                rows = rollouts.due(session, now, most=self._lines)
                moving = self._put_off(session, rows, now)
            for line_ref in moving:
                try:
                    moved += self._move(line_ref, now)
                except StorageError:
                    raise
                except (PersonalizationError, PrivacyError) as error:
                    failed += 1
                    _log.warning("chore_failed", chore="rollouts", code=error.code, line_ref=line_ref)
                    self._skip(line_ref, now)
            looked += len(rows)
            if len(rows) < self._lines:
                return Ticked(looked=looked, moved=moved, failed=failed)

    def _put_off(self, session: Session, rows: Sequence[RolloutRow], now: datetime) -> list[str]:
        """Put off the lines that stay where they are and return the others."""
        acks = self._acks(session, [row.line_ref for row in rows])
        evidence = rollouts.evidence_of(session, rows, acks)
        moving, later = [], {}
        for row in rows:
            stands = rollouts.value_of(row)
            if decide(stands, evidence[row.line_ref], now) is not None:
                moving.append(row.line_ref)
            elif row.look_at is not None:
                later[row.line_ref] = (row.look_at, look_at(stands, now) or now + LOOK)
        rollouts.looked(session, later)
        return moving

    def _move(self, line_ref: str, now: datetime) -> bool:
        """Decide again under the line's lock and carry it out; False where another worker was faster."""
        with transaction(self._engine) as session:
            line = registry.lock_line(session, line_ref)
            row = rollouts.find(session, line_ref)
            if row is None:
                return False
            acks = self._acks(session, [line_ref])
            evidence = rollouts.evidence_of(session, [row], acks)[line_ref]
            transition = decide(rollouts.value_of(row), evidence, now)
            if transition is None:
                return False
            act = Act(actor=ACTOR, reason=transition.sentence, code=transition.cause.value, now=now)
            carry_out(session, self._events, line, transition, act)
            return True

    def _skip(self, line_ref: str, now: datetime) -> None:
        with transaction(self._engine) as session:
            row = rollouts.find(session, line_ref)
            if row is not None and row.look_at is not None:
                rollouts.looked(session, {line_ref: (row.look_at, now + LOOK)})
