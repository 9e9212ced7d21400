"""Serving acknowledgements: what each server said last about each adapter version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personalization.rollouts import rows as rollouts
from privacy.clock import from_the_future
from privacy.storage.subjects import Subject
from streams.contracts.ack import AckStatus, ServingAckV1
from streams.contracts.codec import decode_ack
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import SERVING_ACKS
from streams.ingest.handler import BatchHandler, Decision
from streams.ingest.identity import Identity, event_digest
from streams.ingest.parsed import Parsed, parsed
from streams.storage import serving_acks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from streams.broker.records import SourceRecord
    from streams.contracts.envelope import Invalid
    from streams.ingest.letters import DeadLetterSink
    from streams.ingest.work import Work


_TELLS_ROLLOUTS = frozenset({AckStatus.VERIFIED.value, AckStatus.FAILED.value})


class AckHandler(BatchHandler[ServingAckV1]):
    """Handler of the serving-acks topic."""

    def __init__(
        self,
        *,
        engine: Engine,
        letters: DeadLetterSink,
        clock: Callable[[], datetime],
        max_event_bytes: int,
    ) -> None:
        super().__init__(SERVING_ACKS.name, engine=engine, letters=letters, clock=clock)
        self._max_event_bytes = max_event_bytes

    def parse(self, record: SourceRecord) -> Parsed[ServingAckV1] | Invalid | None:
        """Read an acknowledgement."""
        return parsed(
            decode_ack(record.headers, record.value, key=record.key, max_bytes=self._max_event_bytes)
        )

    def lock(self, session: Session, works: Sequence[Work[ServingAckV1]]) -> None:
        """Take none: an acknowledgement tells of no user."""

    def identify(
        self,
        session: Session,  # noqa: ARG002  # signature of the base class
        works: Sequence[Work[ServingAckV1]],
        now: datetime,  # noqa: ARG002  # signature of the base class
        decision: Decision[ServingAckV1],  # noqa: ARG002  # signature of the base class
    ) -> list[Work[ServingAckV1]]:
        """Take the adapter line for the tenant: it is one tenant's, and no user did it."""
        for work in works:
            line = Subject(work.event.data.line_ref, "")
            work.identity = Identity(line, event_digest(SERVING_ACKS.name, line, work.event.sender))
        return list(works)

    def apply(
        self,
        session: Session,
        works: Sequence[Work[ServingAckV1]],
        now: datetime,
        decision: Decision[ServingAckV1],
    ) -> None:
        """Keep the newest acknowledgement (by its own time) of each server and version.

        One from the future would hide all that follow, and is refused.
        """
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for work in works:
            data = work.event.data
            if from_the_future(data.occurred_at, now):
                decision.refuse(work, DeadLetterReason.IN_THE_FUTURE, "occurred_at: lies ahead of the clock")
                continue
            place = (data.served_name, data.server_id)
            if place not in rows or rows[place]["occurred_at"] <= data.occurred_at:
                rows[place] = {**data.model_dump(), "status": data.status.value}
            decision.applied.append(work)
        serving_acks.keep_newest(session, [rows[place] for place in sorted(rows)])
        told = {
            (row["line_ref"], row["version_id"]) for row in rows.values() if row["status"] in _TELLS_ROLLOUTS
        }
        rollouts.wake(session, told, now)
