"""What is past its time is deleted: by one worker of all, and in transactions that stay small.

Each transaction deletes a bounded number of rows and looks at a bounded number of tenants, so that nobody waits long
for what it locks, and whoever has to stop loses little work. How many rows is learnt from how long the last ones took
(``Pace``): what an idle database deletes in a blink takes a second on one that is busy with ingest.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from personalization.signals.rows import delete_expired_signals
from privacy.policy import versions as policies
from privacy.policy.cache import WITHOUT_POLICY, TenantPolicies
from privacy.storage.session import transaction
from streams.ingest import fates
from streams.outbox.rows import forget_sent
from streams.storage.chore_leases import take_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from streams.settings import OutboxSettings, SchedulerSettings

ROWS: Final = 1_000  # deleted in one transaction at most
FIRST_ROWS: Final = 100  # in the first, which nothing is known of
FEWEST_ROWS: Final = 10
STEP_SECONDS: Final = (
    0.15  # that a transaction should take; one that is several times slower is still a short one
)
TENANTS: Final = 500  # looked at in one transaction
CHORE: Final = "sweep"
LEASE: Final = 0.9  # of the time between two sweeps: the next one is due when the lease of this one has ended


class _LeaseGone(Exception):  # noqa: N818  # it says where to go on, not what went wrong
    """Another worker sweeps now."""


class Pace:
    """Chooses how many rows the next transaction deletes, by how long the last one took.

    Attributes:
        rows: so many.
    """

    def __init__(self) -> None:
        self.rows = min(FIRST_ROWS, ROWS)

    def note(self, rows: int, seconds: float) -> None:
        """Note how long it took to delete ``rows`` (what was found of them), from begin to commit."""
        if rows >= self.rows or seconds > STEP_SECONDS:  # few rows that went fast say nothing about many
            fitting = self.rows * STEP_SECONDS / max(seconds, 0.001)
            self.rows = int(min(ROWS, 2 * self.rows, max(FEWEST_ROWS, fitting)))


class Sweeper:
    """Deletes signals past their tenants' retention, old fates and old sent rows; every worker may have one.

    Args:
        engine: the database.
        clock: aware UTC.
        scheduler: pauses, and how long fates are kept.
        outbox: how long sent rows are kept.
        check_time: raises ``ClockError`` where the clock must not be trusted.
        monotonic: seconds, for how long a transaction takes.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        scheduler: SchedulerSettings,
        outbox: OutboxSettings,
        check_time: Callable[[Session, datetime], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._pace = Pace()
        self._engine = engine
        self._clock = clock
        self._scheduler = scheduler
        self._outbox = outbox
        self._check_time = check_time
        self._owner = uuid.uuid4().hex
        self._policies = TenantPolicies(0.0)

    def sweep(self) -> bool:
        """Delete what is past its time, unless another worker did so lately; return whether this one did.

        Raises:
            ClockError: the clock must not be trusted; nothing was deleted.
            StorageError: the database is away or refused; what was deleted so far stays deleted.
        """
        outbox_keep = timedelta(seconds=self._outbox.keep_seconds)
        fates_keep = timedelta(days=self._scheduler.dedup_days)
        try:
            self._signals()
            self._in_steps(lambda session, now, most: forget_sent(session, now - outbox_keep, most=most))
            # Last, because on PostgreSQL it may give up waiting for a long transaction.
            self._in_steps(lambda session, now, most: fates.forget(session, now, fates_keep, most=most))
        except _LeaseGone:
            return False
        return True

    def _signals(self) -> None:
        last = ""
        while True:
            with self._step() as (session, now):
                names = policies.tenant_ids_after(session, last, most=TENANTS)
                found = self._policies.lookup(session, names)
            if not names:
                return
            limits = {name: now - (found.get(name) or WITHOUT_POLICY).retention for name in names}
            self._in_steps(partial(_expired, limits))
            last = names[-1]

    def _in_steps(self, step: Callable[[Session, datetime, int], int]) -> None:
        """Call ``step``, each time in a transaction of its own, until it finds fewer rows than it was asked for."""
        found = most = 0
        while found >= most:
            most, started = self._pace.rows, self._monotonic()
            with self._step() as (session, now):
                found = step(session, now, most)
            self._pace.note(found, self._monotonic() - started)

    @contextmanager
    def _step(self) -> Iterator[tuple[Session, datetime]]:
        """Yield a transaction and its time; the clock is right then, and the lease is ours."""
        now = self._clock()
        seconds = LEASE * self._scheduler.retention_seconds
        with transaction(self._engine) as session:
            self._check_time(session, now)
            if not take_lease(session, CHORE, self._owner, now=now, seconds=seconds):
                raise _LeaseGone
            yield session, now


def _expired(limits: Mapping[str, datetime], session: Session, _: datetime, most: int) -> int:
    return delete_expired_signals(session, limits, most=most)
