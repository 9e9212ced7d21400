"""The public clock: what decides about periods, schedules and deadlines asks it, and tests put another in its place."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The public clock."""

    def now(self) -> datetime:
        """Return the present, aware, in UTC."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the present, aware, in UTC."""
        return datetime.now(UTC)

    __call__ = now
