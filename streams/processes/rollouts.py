"""Rollouts move by the clock, in a thread beside the trainer: a process that holds the key which desired states bear.

A worker faces the world and has no such key. Training takes minutes and a breached guard must not wait for it, so the
thread has nothing to do with the trainer's jobs. Looks at users' reactions, each some transactions and a while with the
anchor, have a thread of their own for the same reason. Any number of trainers may move rollouts at once; where none
runs, nothing moves, forward or back, and people's commands still do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from personalization.registry.rollout_tick import RolloutTick
from personalization.releases.observer import TrainerObserver
from streams.processes.chores import require_right_time
from streams.processes.ticking import Ticking
from streams.storage import serving_acks

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from personalization.registry.comparisons import Comparisons
    from personalization.starts.shop import Shop

_log = structlog.get_logger(__name__)
CHORE = "rollouts"
COMPARISONS = "comparisons"


class RolloutMover(Ticking):
    """Ticks until it is left, as a context manager; a failure is reported and tried again at the next turn.

    Args:
        shop: database, clock, and where transitions are told, signed.
        seconds: pause between two ticks.
        observer: told of each tick that failed.
    """

    def __init__(
        self,
        shop: Shop,
        *,
        seconds: float,
        observer: TrainerObserver | None = None,
    ) -> None:
        super().__init__(CHORE, seconds=seconds, observer=observer)
        self._clock: Callable[[], datetime] = shop.clock.now
        self._tick = RolloutTick(shop.engine, shop.events, serving_acks.counts_of)
        self._hears = observer or TrainerObserver()

    def turn(self) -> object:
        """Do what is due."""
        return self.move()

    def move(self) -> int:
        """Look at the rollouts that are due and return how many moved.

        Raises:
            ClockError: this machine's clock must not be trusted.
            StorageError: the database is away, or was set back.
        """
        ticked = self._tick.run(now=self._clock(), check=require_right_time)
        if ticked.failed:
            self._hears.chore_failed(CHORE)
        if ticked.moved:
            _log.info("rollouts_moved", total=ticked.moved)
        return ticked.moved


class ReactionReader(Ticking):
    """Takes looks at users' reactions until it is left; what they say moves a rollout at the mover's next tick.

    Args:
        comparisons: of users' reactions.
        clock: the public clock.
        seconds: pause between two turns.
        observer: told of each comparison that failed.
    """

    def __init__(
        self,
        comparisons: Comparisons,
        clock: Callable[[], datetime],
        *,
        seconds: float,
        observer: TrainerObserver | None = None,
    ) -> None:
        super().__init__(COMPARISONS, seconds=seconds, observer=observer)
        self._comparisons = comparisons
        self._clock = clock
        self._hears = observer or TrainerObserver()

    def turn(self) -> object:
        """Attend to the comparisons that are due.

        Raises:
            ClockError: this machine's clock must not be trusted.
            StorageError: the database is away, or was set back.
        """
        return self._comparisons.run(
            now=self._clock(),
            check=require_right_time,
            failed=lambda: self._hears.chore_failed(COMPARISONS),
            leaving=lambda: self.leaving,
        )
