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
    from collections.abc import Sequence

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


def bytes_of(records: Sequence[SourceRecord]) -> int:
    """Return how many bytes all of ``records`` take."""
    return sum([len(record.key or b"") + len(record.value or b"") for record in records])


class Waiting:
    """What waits, of each user and in all; kept up to date, since every batch asks."""

    def __init__(self) -> None:
        self.bytes = 0
        self._users: dict[bytes | None, tuple[int, int]] = {}

    def add(self, record: SourceRecord) -> None:
        """Count a record."""
        self._change(record, 1)

    def remove(self, record: SourceRecord) -> None:
        """Count a record no longer."""
        self._change(record, -1)

    def of(self, key: bytes | None) -> tuple[int, int]:
        """Return how many events of the user with this key wait, and their bytes."""
        return self._users.get(key, (0, 0))

    def _change(self, record: SourceRecord, sign: int) -> None:
        size = sign * size_of(record)
        events, taken = self.of(record.key)
        self.bytes += size
        if events + sign:
            self._users[record.key] = events + sign, taken + size
        else:
            del self._users[record.key]


class Room:
    """Hands the users of one batch their seats.

    Args:
        per_user: events of each user.
        bytes_per_user: their bytes.
        waiting: what waits already.
    """

    def __init__(self, per_user: int, bytes_per_user: int, waiting: Waiting) -> None:
        self._per_user = per_user
        self._bytes_per_user = bytes_per_user
        self._waiting = waiting
        self._seats: dict[bytes | None, Seats] = {}

    def seats(self, key: bytes | None) -> Seats:
        """Return the seats of the user whose records carry ``key``, which names tenant and user."""
        seats = self._seats.get(key)
        if seats is None:
            events, taken = self._waiting.of(key)
            seats = self._seats[key] = Seats(self._per_user - events, self._bytes_per_user - taken)
        return seats
