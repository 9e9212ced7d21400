"""What the relay cannot send waits apart: one row, or a whole topic, each with growing pauses between attempts.

It is kept in memory, per relay: after a restart everything is tried once more. Times are seconds that only grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_PAUSE_SECONDS = 1.0
MOST_ROWS_OF_A_TOPIC = 1_000


@dataclass(slots=True)
class Wait:
    """How long something has waited.

    Attributes:
        topic: topic of what waits.
        attempts: how often it was sent alone, in vain.
        until: when it is sent again.
    """

    topic: str
    attempts: int
    until: float


class Parking:
    """Rows and topics that wait apart.

    Args:
        longest_pause: most seconds between two attempts.
    """

    def __init__(self, longest_pause: float) -> None:
        self._longest = longest_pause
        self._rows: dict[int, Wait] = {}
        self._topics: dict[str, Wait] = {}

    @property
    def rows(self) -> Iterable[int]:
        """Ids of the rows that wait apart."""
        return self._rows.keys()

    @property
    def topics(self) -> Iterable[str]:
        """Topics to which nothing is sent but attempts."""
        return self._topics.keys()

    def __len__(self) -> int:
        """Return how many rows and topics have failed alone and wait."""
        return sum(wait.attempts > 0 for wait in (*self._rows.values(), *self._topics.values()))

    def suspect(self, row: int, topic: str, now: float) -> None:
        """Send a row that failed in company alone, and soon: it may not be the one to blame."""
        self._rows.setdefault(row, Wait(topic, 0, now))

    def park_row(self, row: int, topic: str, now: float) -> int:
        """Let a row wait that failed by itself and return how often it did."""
        wait = self._rows.setdefault(row, Wait(topic, 0, now))
        self._put_off(wait, now)
        if sum(each.topic == topic for each in self._rows.values()) > MOST_ROWS_OF_A_TOPIC:
            # Nothing that so many rows share is a row's own fault, and the list must not grow without end.
            self.park_topic(topic, now)
        return wait.attempts

    def park_topic(self, topic: str, now: float) -> int:
        """Let a topic wait and return how often it failed; its rows need not be remembered one by one."""
        wait = self._topics.setdefault(topic, Wait(topic, 0, now))
        self._put_off(wait, now)
        self._rows = {row: each for row, each in self._rows.items() if each.topic != topic}
        return wait.attempts

    def due_rows(self, now: float) -> list[int]:
        """Return the rows to be sent alone now, those that wait longest first."""
        return sorted((row for row, wait in self._rows.items() if wait.until <= now), key=self._since)

    def due_topics(self, now: float) -> list[str]:
        """Return the topics of which one row is to be sent now."""
        return [topic for topic, wait in self._topics.items() if wait.until <= now]

    def free_row(self, row: int) -> bool:
        """Forget a row that was sent or is gone; return whether it had been parked."""
        wait = self._rows.pop(row, None)
        return wait is not None and wait.attempts > 0

    def free_topic(self, topic: str) -> None:
        """Send to a topic again."""
        self._topics.pop(topic, None)

    def _since(self, row: int) -> float:
        return self._rows[row].until

    def _put_off(self, wait: Wait, now: float) -> None:
        pause: float = min(self._longest, FIRST_PAUSE_SECONDS * 2.0 ** min(wait.attempts, 30))
        wait.attempts += 1
        wait.until = now + pause
