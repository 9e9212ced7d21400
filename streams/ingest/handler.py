"""What every handler does around its transaction: decode, decide each event's fate once, dead-letter.

The transaction holds the effects and, for events that are refused, the mark that they are (``ingest.fates``). Dead
letters are written after it and confirmed before any offset moves on; a crash in between finds the mark and writes
the letter (again, naming the same origin), so none is lost and no event has both an effect and a letter. Nothing waits
for the broker while a transaction is open.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from privacy.storage.session import transaction
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.envelope import Invalid
from streams.ingest.fates import EFFECT, Fate, decide, fates, origin, reopened
from streams.ingest.letters import DeadLetterSink, Refusal
from streams.ingest.work import Outcome, Work
from streams.storage.consumed_offsets import move_on
from streams.telemetry.tracing import ingest_span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from streams.broker.records import SourceRecord
    from streams.ingest.offsets import BatchOffsets
    from streams.ingest.parsed import Parsed

Data = TypeVar("Data")


@dataclass(slots=True)
class Decision(Generic[Data]):
    """What one transaction decided about a batch."""

    applied: list[Work[Data]] = field(default_factory=list)
    held: list[Work[Data]] = field(default_factory=list)
    refused: list[tuple[Work[Data], Refusal]] = field(default_factory=list)
    duplicates: int = 0

    def refuse(self, work: Work[Data], reason: DeadLetterReason, detail: str) -> None:
        """Refuse ``work``."""
        self.refused.append((work, Refusal(work.record, reason, detail, work.attempts)))


class BatchHandler(abc.ABC, Generic[Data]):
    """A handler (``streams.ingest.intake.Handler``) whose effects are one transaction per batch.

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
    def parse(self, record: SourceRecord) -> Parsed[Data] | Invalid | None:
        """Return the event of a record, why there is none, or ``None`` for a record that needs no effect."""

    @abc.abstractmethod
    def lock(self, session: Session, works: Sequence[Work[Data]]) -> None:
        """Take the locks that order this transaction among others, before it asks or writes anything."""

    @abc.abstractmethod
    def identify(
        self, session: Session, works: Sequence[Work[Data]], now: datetime, decision: Decision[Data]
    ) -> list[Work[Data]]:
        """Give each work its identity, and return those that have one; the others are refused."""

    @abc.abstractmethod
    def apply(
        self, session: Session, works: Sequence[Work[Data]], now: datetime, decision: Decision[Data]
    ) -> None:
        """Bring about the effects of ``works`` (none processed before) and enter each into ``decision``."""

    def process(self, works: Sequence[Work[Data]], offsets: BatchOffsets | None = None) -> Outcome:
        """Give every work its effect or its dead letter, or hold it.

        With ``offsets`` what the batch settles is stored in the transaction of the effects.

        Raises:
            StorageError: the database is away; no effect happened.
            RewoundError: the database was set back while this worker ran; no effect happened.
            BrokerUnavailableError: dead letters could not be written; called again, it writes them.
        """
        now = self._clock()
        waiting, unreadable, links = self._parsed(works)
        with ingest_span(self._topic, links):
            decision = self._transact(waiting, now, offsets, letters=bool(unreadable))
            letters = unreadable + [refusal for _, refusal in decision.refused]
            self._letters.write(letters, now)
        return Outcome(
            effects=len(decision.applied),
            duplicates=decision.duplicates,
            held=decision.held,
            refused=[refusal.record for refusal in letters],
        )

    def refuse(self, work: Work[Data], error: Exception) -> None:
        """Dead-letter a work that fails on its own; the detail is the error's type, never its text."""
        now = self._clock()
        refusal = Refusal(
            work.record, DeadLetterReason.PROCESSING_FAILED, type(error).__name__, work.attempts
        )
        if work.identity is not None:
            digest = work.identity.digest
            with transaction(self._engine) as session:
                known = fates(session, [digest])
                if known.get(digest) == EFFECT:
                    return
                decide(session, {digest: _refused(refusal)}, known.keys(), now)
        self._letters.write([refusal], now)

    def _parsed(self, works: Sequence[Work[Data]]) -> tuple[list[Work[Data]], list[Refusal], list[str]]:
        """Return the works that have an event, the refusals of those that cannot be read, and the events' traces."""
        waiting: list[Work[Data]] = []
        refusals: list[Refusal] = []
        links: list[str] = []
        parse = self.parse
        for work in works:
            work.attempts += 1
            parsed = work.parsed
            if parsed is None:
                read = parse(work.record)
                if read is None:
                    continue
                if isinstance(read, Invalid):
                    refusals.append(Refusal(work.record, read.reason, read.detail, work.attempts))
                    continue
                work.parsed = parsed = read
            if parsed.traceparent is not None:
                links.append(parsed.traceparent)
            waiting.append(work)
        return waiting, refusals, links

    def _transact(
        self, works: Sequence[Work[Data]], now: datetime, offsets: BatchOffsets | None, *, letters: bool
    ) -> Decision[Data]:
        decision: Decision[Data] = Decision()
        if not works:
            if offsets is not None and (before := offsets.before()):
                # Else a partition of nothing but unreadable records would be read from its start again and again.
                with transaction(self._engine) as session:
                    move_on(session, before, at_least=offsets.stored())
                offsets.committed(before)
            return decision
        reached: Mapping[tuple[str, int], int] = {}
        with transaction(self._engine) as session:
            self.lock(session, works)
            named = self.identify(session, works, now, decision)
            digests = [work.known.digest for work in named]
            known = fates(session, digests)
            fresh = self._without_fate(named, digests, known, decision)
            self.apply(session, fresh, now, decision)
            decided = dict.fromkeys([work.known.digest for work in decision.applied], EFFECT)
            for work, refusal in decision.refused:
                if work.identity is not None:
                    decided[work.identity.digest] = _refused(refusal)
            decide(session, decided, known.keys(), now)
            for work in named if known else ():
                fate = known.get(work.known.digest, EFFECT)
                if fate.refusal is not None and fate.refused_origin == origin(work.record):
                    decision.refused.append((work, _again(work, fate.refusal)))
            if offsets is not None:
                held = {(work.record.partition, work.record.offset) for work in decision.held}
                letters = letters or bool(decision.refused)
                reached = offsets.before() if letters else offsets.after(held)
                move_on(session, reached, at_least=offsets.stored())
        if offsets is not None:
            offsets.committed(reached)
        return decision

    def _without_fate(
        self,
        works: Sequence[Work[Data]],
        digests: Sequence[bytes],
        known: Mapping[bytes, Fate],
        decision: Decision[Data],
    ) -> list[Work[Data]]:
        """Return the works to decide on; the first of several copies of an event stands for all."""
        if not known and len(set(digests)) == len(works):  # nearly always
            return list(works)
        fresh: dict[bytes, Work[Data]] = {}
        for work, digest in zip(works, digests, strict=True):
            fate = known.get(digest)
            if digest in fresh or (fate is not None and not reopened(work.record, fate)):
                decision.duplicates += 1
            else:
                fresh[digest] = work
        return list(fresh.values())


def _refused(refusal: Refusal) -> Fate:
    return Fate(origin(refusal.record), f"{refusal.reason.value} {refusal.detail}")


def _again(work: Work[Data], refusal: str) -> Refusal:
    """Return the refusal of a record that was marked before: by an earlier attempt, or by a worker that ended."""
    reason, _, detail = refusal.partition(" ")
    # Of the attempts of a worker that ended no more is known than that there was one.
    return Refusal(work.record, DeadLetterReason(reason), detail, max(work.attempts, 2))
