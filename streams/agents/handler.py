"""What every handler does around its transaction: decode, dead-letter, deduplicate.

Records that cannot be accepted are dead-lettered, and that write is confirmed *before* the transaction
commits: when the database decides that some are refused, its transaction is given up, the letters are
written, and the rest is decided anew. A crash in between leaves a second letter with the same origin, never
a lost one. Nothing waits for the broker while a transaction is open.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from privacy.storage.session import transaction
from streams.agents.intake import Outcome, Work
from streams.contracts.codec import Decoded
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.envelope import Invalid
from streams.dead_letters import DeadLetterSink, Refusal
from streams.dedup import mark_processed, processed_among
from streams.tracing import ingest_span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from streams.records import SourceRecord

Data = TypeVar("Data")


@dataclass(frozen=True, slots=True)
class Parsed(Generic[Data]):
    """A decoded event."""

    data: Data
    event_type: str
    digest: bytes  # identity of the event, see ``streams.contracts.envelope``
    traceparent: str | None


@dataclass(slots=True)
class Decision(Generic[Data]):
    """What one transaction decided about a batch."""

    applied: list[Parsed[Data]] = field(default_factory=list)
    held: list[Work] = field(default_factory=list)
    refused: list[tuple[Work, Refusal]] = field(default_factory=list)
    duplicates: int = 0

    def refuse(self, work: Work, reason: DeadLetterReason, detail: str) -> None:
        """Refuse ``work``; the transaction will be given up."""
        self.refused.append((work, Refusal(work.record, reason, detail)))


class _RefusedError(Exception):
    """Works were refused: give the transaction up and write their letters first."""

    def __init__(self, refused: list[tuple[Work, Refusal]]) -> None:
        super().__init__(len(refused))
        self.refused = refused


class BatchHandler(abc.ABC, Generic[Data]):
    """A handler (``streams.agents.intake.Handler``) whose effects are one transaction per batch.

    Args:
        topic: what it reads, for traces.
        engine: database of effects and bookkeeping.
        letters: where refused records go.
        clock: aware UTC.
    """

    def __init__(
        self, topic: str, *, engine: Engine, letters: DeadLetterSink, clock: Callable[[], datetime]
    ) -> None:
        self._topic = topic
        self._engine = engine
        self._letters = letters
        self._clock = clock

    @abc.abstractmethod
    def decode(self, record: SourceRecord) -> Decoded[Any] | Invalid | None:
        """Return the event of a record, why there is none, or ``None`` for a record that needs no effect."""

    @abc.abstractmethod
    def apply(self, session: Session, works: Sequence[Work], now: datetime, decision: Decision[Data]) -> None:
        """Bring about the effects of ``works`` (none processed before) and enter each into ``decision``."""

    def process(self, works: Sequence[Work]) -> Outcome:
        """Give every work its effect or its dead letter, or hold it.

        Raises:
            StorageError: the database is away; no effect happened.
            BrokerUnavailableError: dead letters could not be written; no effect happened.
        """
        now = self._clock()
        waiting, refusals = self._parsed(works)
        self._letters.write(refusals, now)
        dead = len(refusals)
        links = [work.parsed.traceparent for work in waiting if work.parsed.traceparent is not None]
        with ingest_span(self._topic, len(works), links):
            while True:
                try:
                    decision = self._transact(waiting, now)
                except _RefusedError as error:
                    self._letters.write([refusal for _, refusal in error.refused], now)
                    dead += len(error.refused)
                    gone = {id(work) for work, _ in error.refused}
                    waiting = [work for work in waiting if id(work) not in gone]
                else:
                    return Outcome(len(decision.applied), decision.duplicates, dead, decision.held)

    def refuse(self, work: Work, error: Exception) -> None:
        """Dead-letter a work that fails on its own; the detail is the error's type, never its text."""
        refusal = Refusal(work.record, DeadLetterReason.PROCESSING_FAILED, type(error).__name__, attempts=2)
        self._letters.write([refusal], self._clock())

    def _parsed(self, works: Sequence[Work]) -> tuple[list[Work], list[Refusal]]:
        waiting: list[Work] = []
        refusals: list[Refusal] = []
        for work in works:
            if work.parsed is None:
                decoded = self.decode(work.record)
                if decoded is None:
                    continue
                if isinstance(decoded, Invalid):
                    refusals.append(Refusal(work.record, decoded.reason, decoded.detail))
                    continue
                envelope = decoded.envelope
                work.parsed = Parsed(decoded.data, envelope.type, envelope.digest(), envelope.traceparent)
            waiting.append(work)
        return waiting, refusals

    def _transact(self, works: Sequence[Work], now: datetime) -> Decision[Data]:
        decision: Decision[Data] = Decision()
        if not works:
            return decision
        with transaction(self._engine) as session:
            seen = processed_among(session, [work.parsed.digest for work in works])
            fresh: list[Work] = []
            for work in works:
                if work.parsed.digest not in seen:
                    seen.add(work.parsed.digest)
                    fresh.append(work)
            decision.duplicates = len(works) - len(fresh)
            self.apply(session, fresh, now, decision)
            if decision.refused:
                raise _RefusedError(decision.refused)
            mark_processed(session, [parsed.digest for parsed in decision.applied], now)
        return decision
