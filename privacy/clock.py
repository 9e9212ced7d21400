"""The public clock: what decides about periods, schedules and deadlines asks it, and tests put another in its place.

Events carry times of their senders' clocks. Wherever such a time decides something, it is bounded by this clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

# How far a sender's clock may run ahead. What is dated later is not believed: an interaction would be counted in a
# budget period that has not begun, and a consent would outlast every withdrawal until then.
CLOCK_TOLERANCE: Final = timedelta(minutes=10)


class Clock(Protocol):
    """The public clock."""

    def now(self) -> datetime:
        """Return the present, aware, in UTC."""


def from_the_future(occurred_at: datetime, now: datetime) -> bool:
    """Say whether an event is dated further ahead of the public clock than a sender's clock may be wrong."""
    return occurred_at - now > CLOCK_TOLERANCE


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the present, aware, in UTC."""
        return datetime.now(UTC)

    __call__ = now
