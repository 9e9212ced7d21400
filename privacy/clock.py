"""The public clock: the only time that decides anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


class Clock(Protocol):
    """The public clock."""

    def now(self) -> datetime:
        """Return the present, aware, in UTC."""
