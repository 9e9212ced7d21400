"""Who takes the runs of a topic from the consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streams.broker.records import RecordRun


class Receiver(Protocol):
    """Takes the runs of one topic in order and settles their progress when they have had their effect."""

    @property
    def full(self) -> bool:
        """Whether no more of the topic should be fetched for now."""

    async def offer(self, run: RecordRun) -> None:
        """Add a run; waits while there is no room for more."""

    async def drain(self) -> None:
        """Wait until everything offered so far has had its effect, within a time limit of its own."""
