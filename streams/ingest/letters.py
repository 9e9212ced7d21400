"""Write what could not be accepted to the dead-letter topic, confirmed before the offset moves on.

The record keeps its key, value and headers; the reason, its origin and the attempts come on top (see
``streams.contracts.dead_letter``). A crash between this write and the commit leaves a second copy with the
same origin, by which a reader tells it from a second event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.broker.records import OutgoingRecord
from streams.contracts.dead_letter import PREFIX, DeadLetter, DeadLetterReason
from streams.contracts.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from streams.broker.records import RecordSender, SourceRecord

LARGEST_KEPT_BYTES = DEAD_LETTERS.max_message_bytes - 65_536


class Refusal(NamedTuple):
    """A record that cannot be accepted, with a stable reason and the field and rule (never a value)."""

    record: SourceRecord
    reason: DeadLetterReason
    detail: str
    attempts: int


class DeadLetterSink:
    """The dead-letter topic, seen from a handler."""

    def __init__(
        self,
        sender: RecordSender,
        group: str,
        on_written: Callable[[Iterable[tuple[str, str]]], None] | None = None,
    ) -> None:
        self._sender = sender
        self._group = group
        self._on_written = on_written  # told (topic, reason) of each letter

    def write(self, refusals: Sequence[Refusal], now: datetime) -> None:
        """Write ``refusals`` and return when they are confirmed.

        Raises:
            BrokerUnavailableError: at least one was not confirmed.
        """
        if refusals:
            self._sender.send_all([self._outgoing(refusal, now) for refusal in refusals])
            if self._on_written is not None:
                self._on_written((refusal.record.topic, refusal.reason.value) for refusal in refusals)

    def _outgoing(self, refusal: Refusal, now: datetime) -> OutgoingRecord:
        record = refusal.record
        letter = DeadLetter(
            reason=refusal.reason,
            detail=refusal.detail,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_milliseconds=record.timestamp,
            group=self._group,
            attempts=refusal.attempts,
            refused_at=now,
        )
        # A letter that cannot be written stops its partition. So what our client cannot send is replaced by what it
        # can, and with our own headers everything must fit the topic.
        headers = [(name, b"" if content is None else content) for name, content in record.headers]
        key, value = record.key, record.value
        around = len(key or b"") + sum(len(name.encode()) + len(content) for name, content in headers)
        lost = []
        if around > LARGEST_KEPT_BYTES:
            lost.append(f"key and headers ({around} bytes)")
            key, headers, around = None, [], 0
        if value is not None and around + len(value) > LARGEST_KEPT_BYTES:
            lost.append(f"the value ({len(value)} bytes)")
            value = None
        if lost:
            letter = replace(letter, detail=f"{letter.detail}; not kept: {' and '.join(lost)}")
        if key is None and value is None:
            key = b""  # a record needs one of both
        ours = [name.removeprefix(PREFIX) for name, _ in letter.headers(())]
        BOUNDARY.require(Kind.DEAD_LETTER, ours)
        return OutgoingRecord(DEAD_LETTERS.name, key, value, letter.headers(headers))
