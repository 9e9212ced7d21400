"""What happens by the clock: rounds are opened, rollouts moved, the outbox is relayed, what is past its time deleted.

A clock that is wrong must neither delete what is not past its time nor open rounds ahead of it. So both compare this
machine's clock with the database's first, and wait while they disagree. SQLite has no clock but this machine's.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from personalization.registry.rollout_tick import RolloutTick
from personalization.releases.overdue import forfeit_overdue
from personalization.rounds.queries import open_due_rounds
from privacy.errors import PrivacyError
from privacy.storage.session import server_now, transaction
from streams.errors import ClockError, StreamsError
from streams.processes.sweeps import Sweeper
from streams.storage import serving_acks
from streams.telemetry.tracing import round_span

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.registry.announcements import AdapterEvents
    from privacy.ledger import Ledger
    from streams.outbox.relay import OutboxRelay
    from streams.settings import OutboxSettings, SchedulerSettings
    from streams.telemetry.metrics import WorkerMetrics

log = structlog.get_logger(__name__)

LARGEST_CLOCK_DIFFERENCE = timedelta(minutes=5)
MOST_STEPS = 20  # transactions of one tick that open rounds; the next tick goes on


def require_right_time(session: Session, now: datetime) -> None:
    """Compare ``now`` with the database's clock.

    Raises:
        ClockError: they lie more than ``LARGEST_CLOCK_DIFFERENCE`` apart.
    """
    theirs = server_now(session)
    if theirs is None:
        return
    difference = theirs - now
    if abs(difference) > LARGEST_CLOCK_DIFFERENCE:
        raise ClockError(
            f"this machine's clock and the database's lie {abs(difference).total_seconds():.0f} s apart, allowed are "
            f"{LARGEST_CLOCK_DIFFERENCE.total_seconds():.0f} s; set the wrong one right"
        )


class Chores:
    """The worker's periodic work; every worker may run it at once.

    Args:
        engine: the database.
        relay: sends the outbox.
        clock: aware UTC.
        scheduler: pauses and retention of bookkeeping.
        outbox: pauses and retention of sent rows.
        metrics: shows how much waits in the outbox.
        ledger: keeps the charge of a round whose slot is over.
        events: tells that such a round was closed, and of rollouts what happened; signed.
        check_time: raises ``ClockError`` where the clock must not be trusted.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        relay: OutboxRelay,
        clock: Callable[[], datetime],
        scheduler: SchedulerSettings,
        outbox: OutboxSettings,
        metrics: WorkerMetrics,
        ledger: Ledger,
        events: AdapterEvents,
        check_time: Callable[[Session, datetime], None] = require_right_time,
    ) -> None:
        self._engine = engine
        self._relay = relay
        self._clock = clock
        self._scheduler = scheduler
        self._outbox = outbox
        self._metrics = metrics
        self._ledger = ledger
        self._events = events
        self._check_time = check_time
        self._rollouts = RolloutTick(engine, events, serving_acks.counts_of)
        self._sweeper = Sweeper(engine, clock, scheduler, outbox, check_time)

    async def run(self) -> None:
        """Run all of them until cancelled; a failure is reported once and tried again at the next turn."""
        async with asyncio.TaskGroup() as group:
            for name, chore, seconds in (
                ("rounds", self.open_rounds, self._scheduler.tick_seconds),
                ("rollouts", self.move_rollouts, self._scheduler.tick_seconds),
                ("outbox", self.relay_outbox, self._outbox.poll_seconds),
                ("retention", self.sweep, self._scheduler.retention_seconds),
            ):
                group.create_task(_repeat(name, chore, seconds, self._metrics.chore_failed))

    def open_rounds(self) -> None:
        """End the rounds whose slot is over and open those that are due, both on the public clock."""
        now = self._clock()
        with transaction(self._engine) as session:
            self._check_time(session, now)
            ended = forfeit_overdue(session, self._ledger, self._events, now=now)
        for round_id in ended:
            log.warning("slot_passed", round=round_id)
        for _ in range(MOST_STEPS):
            with transaction(self._engine) as session:
                opened = open_due_rounds(session, now)
            for round_id in opened:
                with round_span(round_id, "open round"):
                    log.info("round_opened", round=round_id)
            if not opened:
                return

    def move_rollouts(self) -> None:
        """Look at the rollouts that are due and move those that are decided, on the public clock."""
        ticked = self._rollouts.run(now=self._clock(), check=self._check_time)
        if ticked.moved:
            log.info("rollouts_moved", total=ticked.moved)

    def relay_outbox(self) -> None:
        """Send everything that waits in the outbox."""
        try:
            while self._relay.relay_once(self._clock()):
                pass
        finally:
            self._metrics.parked.set(self._relay.parked)
            self._metrics.outbox.set(self._relay.waiting())

    def sweep(self) -> None:
        """Delete what is past its time, unless another worker did so lately."""
        self._sweeper.sweep()


async def _repeat(
    name: str, chore: Callable[[], None], seconds: float, failed: Callable[[str], None] = lambda _: None
) -> None:
    failing = False
    while True:
        try:
            await asyncio.to_thread(chore)
        except (PrivacyError, StreamsError) as error:
            if not failing:
                log.warning("chore_failed", chore=name, code=error.code, error=str(error))
            failing = True
            failed(name)
        except Exception as error:  # noqa: BLE001  # a bug in one chore must not end ingest
            if not failing:
                log.warning("chore_failed", chore=name, error=type(error).__name__)
            failing = True
            failed(name)
        else:
            if failing:
                log.info("chore_works_again", chore=name)
            failing = False
        await asyncio.sleep(seconds)
