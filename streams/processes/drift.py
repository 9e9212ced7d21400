"""Readings of drift are taken by the clock, in a thread beside the trainer: it holds the key that desired states bear.

Any number of trainers may take readings at once; where none runs, none is taken, and missed ones are not made up for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from personalization.drift.tick import DriftTick
from personalization.releases.observer import TrainerObserver
from streams.processes.chores import require_right_time
from streams.processes.ticking import Ticking

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from personalization.drift.protocol import DriftReadings, Read

_log = structlog.get_logger(__name__)
CHORE = "drift"


class DriftReader(Ticking):
    """Ticks until it is left, as a context manager.

    Args:
        engine: the database.
        clock: aware UTC.
        readings: the protocol of one reading.
        seconds: pause between two ticks.
        observer: told of each reading, each alarm, and each tick that failed.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        readings: DriftReadings,
        *,
        seconds: float,
        observer: TrainerObserver | None = None,
    ) -> None:
        super().__init__(CHORE, seconds=seconds, observer=observer)
        self._clock = clock
        self._hears = observer or TrainerObserver()
        self._tick = DriftTick(engine, readings, heard=self._tell)

    def turn(self) -> object:
        """Do what is due."""
        return self.read()

    def read(self) -> int:
        """Take the readings that are due and return how many ended.

        Raises:
            ClockError: this machine's clock must not be trusted.
            StorageError: the database is away.
        """
        ticked = self._tick.run(clock=self._clock, check=require_right_time, stop=lambda: self.leaving)
        if ticked.failed:
            self._hears.chore_failed(CHORE)
        total = sum(ticked.ended.values())
        if total:
            _log.info("drift_read", total=total)
        return total

    def _tell(self, read: Read) -> None:
        family = None if read.judgement is None or not read.judgement.drifted else read.judgement.family
        self._hears.drift_read(read.outcome.value, family=family, followed=read.followed)
