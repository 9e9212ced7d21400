"""The room in which early events wait for their consent: so many seats for each user, and nobody sits on another's.

Which of a user's events may wait depends on that user's own events alone: each user has the same number of seats and
the same number of bytes, whoever else is waiting, and an event beyond them is refused at once. The room as a whole
never refuses anybody. Once it is full, by events or by bytes, no more of the topic is fetched until there is room again
(``streams.ingest.intake.Intake.full``): others are late then, and not refused, while the topics that bring the consents
go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.broker.records import SourceRecord


@dataclass(slots=True)
class Seats:
    """What one user may still have waiting: so many events, so many bytes."""

    free: int
    free_bytes: int

    def take(self, size: int) -> bool:
        """Take a seat for an event of ``size`` bytes, and say whether there was one."""
        if self.free < 1 or self.free_bytes < size:
            return False
        self.free -= 1
        self.free_bytes -= size
        return True


def size_of(record: SourceRecord) -> int:
    """Return how many bytes a waiting record takes, headers aside."""
    return len(record.key or b"") + len(record.value or b"")


class Room:
    """Hands the users of one batch their seats.

    Args:
        per_user: events of each user.
        bytes_per_user: their bytes.
        taken: what waits already.
    """

    def __init__(self, per_user: int, bytes_per_user: int, taken: Iterable[SourceRecord]) -> None:
        self._per_user = per_user
        self._bytes_per_user = bytes_per_user
        self._seats: dict[bytes | None, Seats] = {}
        for record in taken:
            self.seats(record.key).take(size_of(record))

    def seats(self, key: bytes | None) -> Seats:
        """Return the seats of the user whose records carry ``key``, which names tenant and user."""
        seats = self._seats.get(key)
        if seats is None:
            seats = self._seats[key] = Seats(self._per_user, self._bytes_per_user)
        return seats
