"""What happens by the clock: rounds are opened, the outbox is relayed, what is past its time is deleted.

A clock that is wrong must neither delete what is not past its time nor open rounds ahead of it. So both compare this
machine's clock with the database's first, and wait while they disagree. SQLite has no clock but this machine's.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from personalization.releases.overdue import forfeit_overdue
from personalization.rounds.queries import open_due_rounds
from personalization.rounds.seed_keys import forget_closed_rounds
from privacy.errors import PrivacyError, RewoundError
from privacy.storage.session import server_now, transaction
from streams.errors import ClockError, StreamsError
from streams.processes.sweeps import Sweeper
from streams.settings import AnchorSettings
from streams.telemetry.tracing import round_span

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.registry.announcements import AdapterEvents
    from privacy.keys.keyring import Keyring
    from privacy.ledger import Ledger
    from streams.anchor.guard import AnchorGuard
    from streams.outbox.relay import OutboxRelay
    from streams.settings import OutboxSettings, SchedulerSettings
    from streams.telemetry.metrics import WorkerMetrics

log = structlog.get_logger(__name__)

FORGET_SECONDS = 30.0

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
        keyring: has the keys of closed rounds destroyed.
        clock: aware UTC.
        scheduler: pauses and retention of bookkeeping.
        outbox: pauses and retention of sent rows.
        metrics: shows how much waits in the outbox.
        ledger: keeps the charge of a round whose slot is over.
        events: tells that such a round was closed.
        anchor: where what moved is written down outside the database; without one nothing is.
        anchor_settings: how often offsets are.
        check_time: raises ``ClockError`` where the clock must not be trusted.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        relay: OutboxRelay,
        keyring: Keyring,
        clock: Callable[[], datetime],
        scheduler: SchedulerSettings,
        outbox: OutboxSettings,
        metrics: WorkerMetrics,
        ledger: Ledger,
        events: AdapterEvents,
        anchor: AnchorGuard | None = None,
        anchor_settings: AnchorSettings | None = None,
        check_time: Callable[[Session, datetime], None] = require_right_time,
    ) -> None:
        self._anchor = anchor
        self._offsets_seconds = (anchor_settings or AnchorSettings()).offsets_seconds
        self._offsets_at = 0.0
        self._engine = engine
        self._relay = relay
        self._keyring = keyring
        self._clock = clock
        self._scheduler = scheduler
        self._outbox = outbox
        self._metrics = metrics
        self._ledger = ledger
        self._events = events
        self._check_time = check_time
        self._sweeper = Sweeper(engine, clock, scheduler, outbox, check_time)

    async def run(self) -> None:
        """Run all of them until cancelled; a failure is reported once and tried again at the next turn.

        Raises:
            RewoundError: the database was set back; nothing may go on over it.
        """
        async with asyncio.TaskGroup() as group:
            for name, chore, seconds in (
                *(
                    [("anchor", self.write_anchor, self._outbox.poll_seconds)]
                    if self._anchor is not None
                    else []
                ),
                ("rounds", self.open_rounds, self._scheduler.tick_seconds),
                ("round keys", self.forget_round_keys, FORGET_SECONDS),
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

    def write_anchor(self) -> None:
        """Anchor what moved since the last turn, and now and then the consumed offsets.

        Raises:
            RewoundError: the database lies below the anchor.
        """
        if self._anchor is None:
            return
        with_offsets = time.monotonic() - self._offsets_at >= self._offsets_seconds
        while self._anchor.advance(offsets=with_offsets):
            pass
        if with_offsets:
            self._offsets_at = time.monotonic()

    def forget_round_keys(self) -> None:
        """Destroy the keys of closed rounds' seeds."""
        forget_closed_rounds(self._engine, self._keyring)

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
        except RewoundError:
            raise
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
