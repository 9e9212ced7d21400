"""Readings of drift move by the clock: due ones are opened, leased and taken, each on its own."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from personalization.drift.rows import MOST_AT_ONCE, lease_reading, open_due_readings
from personalization.errors import DriftError, LeaseLostError, PersonalizationError
from privacy.errors import FencedError, PrivacyError, StorageError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.drift.protocol import DriftReadings, Read

_log = structlog.get_logger(__name__)
LEASE: Final = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class DriftTicked:
    """What one tick did.

    Attributes:
        opened: readings that fell due.
        ended: how many ended how.
        alarms: how many alarms there were, by (what it is about, what followed).
        failed: readings that could not be gone on with, and are taken up again when their leases end.
    """

    opened: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    alarms: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: int = 0


class DriftTick:
    """Takes readings by the clock; any number of trainers may do so at once.

    Args:
        engine: the database.
        readings: the protocol of one reading.
        heard: told how each reading ended.
    """

    def __init__(
        self, engine: Engine, readings: DriftReadings, *, heard: Callable[[Read], None] | None = None
    ) -> None:
        self._engine = engine
        self._readings = readings
        self._heard = heard or (lambda _: None)
        self._owner = uuid.uuid4().hex

    def run(
        self,
        *,
        clock: Callable[[], datetime],
        check: Callable[[Session, datetime], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> DriftTicked:
        """Open and take all that is due.

        Args:
            clock: the public clock.
            check: raises where the clock must not be trusted.
            stop: says when to leave the rest to the next tick.

        Raises:
            StorageError: the database is away; what was done so far stays done.
        """
        opened = failed = 0
        ended: Counter[str] = Counter()
        alarms: Counter[tuple[str, str]] = Counter()
        looked = MOST_AT_ONCE
        while looked == MOST_AT_ONCE and not stop():
            with transaction(self._engine) as session:
                now = clock()
                if check is not None:
                    check(session, now)
                looked, new = open_due_readings(session, now)
            opened += new
        while not stop():
            with transaction(self._engine) as session:
                lease = lease_reading(session, self._owner, clock(), LEASE)
            if lease is None:
                break
            try:
                read = self._readings.take(lease)
            except (LeaseLostError, FencedError):
                continue  # another trainer has it
            except DriftError as error:
                _log.warning("chore_failed", chore="drift", code=error.code, line_ref=lease.line_ref)
                read = self._readings.forfeit(lease, "what is stored of it cannot be read")
            except StorageError:
                raise
            except (PersonalizationError, PrivacyError) as error:
                failed += 1
                _log.warning("chore_failed", chore="drift", code=error.code, line_ref=lease.line_ref)
                continue
            if read is not None:
                ended[read.outcome.value] += 1
                if read.followed is not None and read.judgement is not None:
                    alarms[str(read.judgement.family), read.followed] += 1
                self._heard(read)
        return DriftTicked(opened=opened, ended=ended, alarms=alarms, failed=failed)
