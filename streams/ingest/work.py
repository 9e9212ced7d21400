"""A record on its way through a handler, and what one call of the handler did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from streams.ingest.seats import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.broker.records import SourceRecord
    from streams.ingest.identity import Identity
    from streams.ingest.parsed import Parsed
    from streams.ingest.seats import Room

Data = TypeVar("Data")


@dataclass(slots=True)
class Work(Generic[Data]):
    """One record on its way through a handler.

    Attributes:
        record: the record.
        since: when it was first offered, on the monotonic clock, in seconds.
        final: it may not be held any longer.
        room: where early events wait, a seat for each; none are counted without.
        seated: it has a seat there.
        attempts: how often a handler was asked to process it.
        parsed: what the handler made of the record, kept while it is held.
        identity: whose event it is and which one, once the handler knows.
    """

    record: SourceRecord
    since: float
    final: bool = False
    room: Room | None = None
    seated: bool = False
    attempts: int = 0
    parsed: Parsed[Data] | None = None
    identity: Identity | None = None

    def may_wait(self) -> bool:
        """Say whether the record may be held, having taken one of its user's seats for it."""
        if not self.final and not self.seated:
            self.seated = self.room is None or self.room.seats(self.record.key).take(size_of(self.record))
        return not self.final and self.seated

    @property
    def event(self) -> Parsed[Data]:
        """The decoded event, of a work that was read.

        Raises:
            ValueError: it was not read yet.
        """
        if self.parsed is None:
            raise ValueError("this record was not read yet; it has no event")
        return self.parsed

    @property
    def known(self) -> Identity:
        """The identity, of a work whose user is known.

        Raises:
            ValueError: it was not looked up yet.
        """
        if self.identity is None:
            raise ValueError("the user of this record was not looked up yet; it has no identity")
        return self.identity


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one handler call did.

    Attributes:
        effects: events that had their effect.
        duplicates: events that had had it before.
        held: works that must wait.
        refused: records that were dead-lettered.
        failed: those of them on which our own code failed.
    """

    effects: int = 0
    duplicates: int = 0
    held: Sequence[Work[Any]] = ()
    refused: Sequence[SourceRecord] = ()
    failed: Sequence[SourceRecord] = ()

    @property
    def dead_letters(self) -> int:
        """Events that were refused."""
        return len(self.refused)
