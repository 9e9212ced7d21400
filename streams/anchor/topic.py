"""The anchor in two compacted topics, for installations on a broker that outlives them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from privacy.errors import AnchorUnavailableError
from streams.client.errors import ClientError
from streams.contracts.codec import Record
from streams.contracts.topics import ANCHOR, ERASED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.client.transport import Broker, Sink, Source

READ_SECONDS = 60.0
CONFIRM_SECONDS = 30.0
POLL_SECONDS = 0.5


class TopicAnchor:
    """Follows the anchor topic and writes to it; connections are made on first use and anew after a failure.

    Args:
        broker: the broker, with its security settings.
        read_seconds: how long reading to the present end may take.
        confirm_seconds: how long a write may take to be confirmed by all in-sync replicas.
    """

    def __init__(
        self, broker: Broker, *, read_seconds: float = READ_SECONDS, confirm_seconds: float = CONFIRM_SECONDS
    ) -> None:
        self._broker = broker
        self._read_seconds = read_seconds
        self._confirm_seconds = confirm_seconds
        self._source: Source | None = None
        self._sink: Sink | None = None

    def read(self) -> Sequence[Record]:
        """Return what was written to the topic since the last call."""
        try:
            if self._source is None:
                self._source = self._broker.open_source(ANCHOR.name)
            return _to_the_end(self._source, ANCHOR.name, self._read_seconds)
        except ClientError as error:
            self._forget_source()
            raise AnchorUnavailableError(f"the anchor cannot be read: {error}") from error
        except AnchorUnavailableError:
            self._forget_source()
            raise

    def write(self, records: Sequence[Record]) -> None:
        """Send ``records`` and wait for all of them to be confirmed."""
        if not records:
            return
        failures: list[BaseException] = []
        done = threading.Semaphore(0)

        def on_done(error: BaseException | None) -> None:
            if error is not None:
                failures.append(error)
            done.release()

        try:
            if self._sink is None:
                self._sink = self._broker.open_sink()
            for record in records:
                self._sink.send(record, on_done)
            self._sink.flush(self._confirm_seconds)
            confirmed = all(done.acquire(timeout=self._confirm_seconds) for _ in records)
        except ClientError as error:
            self._forget_sink()
            raise AnchorUnavailableError(f"the anchor did not confirm a write: {error}") from error
        if failures or not confirmed:
            self._forget_sink()
            what = type(failures[0]).__name__ if failures else "no answer"
            raise AnchorUnavailableError(
                f"the anchor did not confirm a write ({what}); check the broker and the rights on {ANCHOR.name}"
            )

    def erased(self) -> Iterable[Record]:
        """Return the register of erasures, read once through."""
        try:
            source = self._broker.open_source(ERASED.name)
            try:
                return _to_the_end(source, ERASED.name, self._read_seconds)
            finally:
                source.close()
        except ClientError as error:
            raise AnchorUnavailableError(f"the register of erasures cannot be read: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._forget_source()
        self._forget_sink()

    def _forget_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()  # the next one reads from the start; what is known stays known

    def _forget_sink(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            with contextlib.suppress(ClientError):
                sink.close(1.0)


def _to_the_end(source: Source, topic: str, seconds: float) -> list[Record]:
    """Read ``source`` to the end that its topic has now.

    Raises:
        AnchorUnavailableError: the topic is missing, or its end was not reached in time.
    """
    deadline = time.monotonic() + seconds
    ends = {partition: end for partition, (_, end) in source.bounds().items()}
    if not ends:
        raise AnchorUnavailableError(f"the topic {topic} is missing; run `discreet topics create`")
    found: list[Record] = []
    while any(source.position(partition) < end for partition, end in ends.items()):
        if time.monotonic() > deadline:
            raise AnchorUnavailableError(
                f"the end of {topic} was not reached within {seconds:g} s; try again"
            )
        found.extend(
            Record(topic, record.key or b"", record.value, list(record.headers))
            for record in source.poll(POLL_SECONDS)
        )
    return found
