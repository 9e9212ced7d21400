"""The room in which early events wait for their consent: so many seats for each user, and nobody sits on another's.

Which of a user's events may wait depends on that user's own events alone: each user has the same number of seats,
whoever else is waiting, and an event beyond them is refused at once. The room as a whole never refuses anybody. Once it
is full, no more of the topic is fetched until there is room again (``streams.ingest.intake.Intake.full``): others are
late then, and not refused, while the topics that bring the consents go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Seats:
    """The seats of one user: how many are still free."""

    free: int

    def take(self) -> bool:
        """Take one, and say whether there was one."""
        self.free -= 1
        return self.free >= 0


class Room:
    """Hands the users of one batch their seats.

    Args:
        per_user: seats of each user.
        taken: the key of each event that waits already; it names tenant and user.
    """

    def __init__(self, per_user: int, taken: Iterable[bytes | None]) -> None:
        self._per_user = per_user
        self._seats: dict[bytes | None, Seats] = {}
        for key in taken:
            self.seats(key).take()

    def seats(self, key: bytes | None) -> Seats:
        """Return the seats of the user whose records carry ``key``."""
        seats = self._seats.get(key)
        if seats is None:
            seats = self._seats[key] = Seats(self._per_user)
        return seats
