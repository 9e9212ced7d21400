"""The relay sends what transactions left in the outbox.

A row leaves not before its own time, which for what comes of a round is the public instant of its slot.
Rows of one (topic, key) leave in the order they were written: a relay takes only the oldest waiting row of
each, and takes it locked (``SKIP LOCKED`` on PostgreSQL), so any number of relays run without a leader. A
crash between sending and marking sends a row twice; readers recognise it by the event id.

What the broker confirms is marked row by row. A row that cannot be sent (too large, no right to write, no such topic)
waits apart and is tried alone, with growing pauses; only later rows of its own key wait behind it, and where its topic
is to blame, rows of that topic.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from privacy.storage.session import transaction
from streams.broker.records import Blame, EachSender, OutgoingRecord, SendFailure
from streams.errors import BrokerUnavailableError
from streams.outbox import rows as outbox_rows
from streams.outbox.parking import Parking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from streams.outbox.tables import OutboxRow

log = structlog.get_logger(__name__)

LONGEST_PAUSE_SECONDS = 300.0
ALONE_SECONDS = 10.0  # of one turn for what is sent alone; the rest has its turn after the other rows


class RelayObserver(Protocol):
    """Who is told what could not be sent (metrics)."""

    def unsendable(self, topic: str, error: str) -> None:
        """Note that a row failed by itself."""


class _Outcome(NamedTuple):
    rows: Sequence[OutboxRow]
    failures: Sequence[SendFailure | None]

    @property
    def sent(self) -> list[OutboxRow]:
        return [row for row, failure in zip(self.rows, self.failures, strict=True) if failure is None]

    @property
    def failed(self) -> list[tuple[OutboxRow, SendFailure]]:
        return [
            (row, failure)
            for row, failure in zip(self.rows, self.failures, strict=True)
            if failure is not None
        ]


class OutboxRelay:
    """Sends waiting rows; safe to run in every worker.

    Args:
        engine: the database.
        sender: confirms records one by one.
        batch_rows: most rows sent together.
        longest_pause: most seconds between two attempts of what cannot be sent.
        observer: told what could not be sent.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        engine: Engine,
        sender: EachSender,
        *,
        batch_rows: int,
        longest_pause: float = LONGEST_PAUSE_SECONDS,
        observer: RelayObserver | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._sender = sender
        self._batch_rows = batch_rows
        self._observer = observer
        self._monotonic = monotonic
        self._parking = Parking(longest_pause)

    @property
    def parked(self) -> int:
        """How many rows and topics wait apart, because they could not be sent."""
        return len(self._parking)

    def relay_once(self, now: datetime) -> int:
        """Send one batch, then what waits apart and is due, and return how many rows the broker confirmed.

        Raises:
            StorageError: the database is away.
            BrokerUnavailableError: the broker confirmed nothing; the rows stay waiting.
        """
        parked_rows, parked_topics = list(self._parking.rows), list(self._parking.topics)
        outcome = self._relay(
            lambda session: outbox_rows.oldest_of_each_key(
                session, self._batch_rows, now, but_rows=parked_rows, but_topics=parked_topics
            ),
            now,
        )
        late = [failure for _, failure in outcome.failed if failure.blame is Blame.BROKER]
        if late and len(late) == len(outcome.rows):
            raise BrokerUnavailableError(
                f"the broker confirmed none of {len(late)} writes ({late[0].error}); check that it is reachable"
            )
        self._set_apart(outcome)
        return len(outcome.sent) + self._relay_apart(now)

    def _relay(self, choose: Callable[[Session], Sequence[OutboxRow]], now: datetime) -> _Outcome:
        if self._engine.dialect.name == "sqlite":
            # One machine, one relay: sending inside the transaction would hold the only write lock meanwhile.
            with transaction(self._engine) as session:
                rows = choose(session)
            outcome = self._send(rows)
            if outcome.sent:
                with transaction(self._engine) as session:
                    outbox_rows.mark_sent(session, outcome.sent, now)
        else:
            with transaction(self._engine) as session:
                outcome = self._send(choose(session))
                outbox_rows.mark_sent(session, outcome.sent, now)
        return outcome

    def _send(self, rows: Sequence[OutboxRow]) -> _Outcome:
        failures = self._sender.send_each([_outgoing(row) for row in rows]) if rows else []
        return _Outcome(rows, failures)

    def _set_apart(self, outcome: _Outcome) -> None:
        """Let wait what failed in company: late rows for a while, all others until they were tried alone."""
        now = self._monotonic()
        for row, failure in outcome.failed:
            if failure.blame is Blame.BROKER:
                self._park(row, failure)
            else:
                self._parking.suspect(_id(row), row.topic, now)

    def _relay_apart(self, now: datetime) -> int:
        """Send what is due of what waits apart, each alone, and return how many rows were confirmed."""
        began, sent = self._monotonic(), 0
        for topic in self._parking.due_topics(began):
            if self._monotonic() - began > ALONE_SECONDS:
                return sent
            sent += self._try_topic(topic, now)
        for row in self._parking.due_rows(began):
            if self._monotonic() - began > ALONE_SECONDS:
                return sent
            if row in self._parking.rows:  # a topic that was parked meanwhile took its rows along
                sent += self._try_row(row, now)
        return sent

    def _try_row(self, row: int, now: datetime) -> int:
        outcome = self._relay(lambda session: outbox_rows.waiting_row(session, row), now)
        if outcome.failed:
            self._park(*outcome.failed[0])
        elif self._parking.free_row(row):
            log.info("outbox_unparked", topic=outcome.rows[0].topic if outcome.rows else None)
        return len(outcome.sent)

    def _try_topic(self, topic: str, now: datetime) -> int:
        parked = list(self._parking.rows)
        outcome = self._relay(
            lambda session: outbox_rows.oldest_of_each_key(
                session, 1, now, but_rows=parked, only_topic=topic
            ),
            now,
        )
        failed = outcome.failed
        if not failed or failed[0][1].blame is Blame.RECORD:
            self._parking.free_topic(topic)
            log.info("outbox_unparked", topic=topic)
        if failed and failed[0][1].blame is Blame.BROKER:
            self._parking.park_topic(topic, self._monotonic())
        elif failed:
            self._park(*failed[0])
        return len(outcome.sent)

    def _park(self, row: OutboxRow, failure: SendFailure) -> None:
        now = self._monotonic()
        if failure.blame is Blame.TOPIC:
            attempts = self._parking.park_topic(row.topic, now)
        else:
            attempts = self._parking.park_row(_id(row), row.topic, now)
        if attempts == 1:
            what = "topic" if failure.blame is Blame.TOPIC else "row"
            log.warning("outbox_parked", what=what, topic=row.topic, error=failure.error)
        if self._observer is not None:
            self._observer.unsendable(row.topic, failure.error)

    def waiting(self) -> int:
        """Return how many rows wait to be sent, up to ``streams.outbox.rows.MOST_COUNTED``."""
        with transaction(self._engine) as session:
            return outbox_rows.waiting(session)


def _id(row: OutboxRow) -> int:
    assert row.outbox_id is not None  # it was read from the database
    return row.outbox_id


def _outgoing(row: OutboxRow) -> OutgoingRecord:
    headers = [(name, text.encode()) for name, text in row.headers]
    return OutgoingRecord(row.topic, row.key, row.value, headers)
