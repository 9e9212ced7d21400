"""What publishers and feeds ask of a broker; Kafka and the in-memory broker of ``testing`` provide it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..contracts.codec import Record


class StoredRecord(NamedTuple):
    """A record as it lies in a partition."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


OnDone = Callable[[BaseException | None], None]
"""Called once per record, from any thread: with ``None`` when it is stored, else with the error."""


class Sink(Protocol):
    """Writes records; safe to use from several threads."""

    def send(self, record: Record, on_done: OnDone) -> None:
        """Take one record; ``on_done`` tells its fate.

        Raises:
            BrokerUnreachableError: if the topic's partitions cannot be learned in time.
            DeliveryError: if the record is refused at once.
        """

    def flush(self, timeout_seconds: float) -> None:
        """Hurry everything out that was taken, and wait for it no longer than the time-out."""

    def close(self, timeout_seconds: float) -> None:
        """Give back all resources; what is not stored by then fails."""


class Source(Protocol):
    """Reads one topic, all partitions, without a group; for one thread."""

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Return per partition the first offset that exists and the one the next record will get.

        The mapping is empty while the topic does not exist.
        """

    def seek(self, partition: int, offset: int) -> None:
        """Read ``partition`` from ``offset`` on; every partition starts at its beginning."""

    def position(self, partition: int) -> int:
        """Return the next offset of ``partition`` that will be read."""

    def poll(self, timeout_seconds: float) -> Sequence[StoredRecord]:
        """Return what there is, in order within a partition; wait at most the time-out for the first one."""

    def close(self) -> None:
        """Give back all resources."""


class Broker(Protocol):
    """Where sinks and sources come from."""

    def open_sink(self) -> Sink:
        """Open a writer.

        Raises:
            BrokerUnreachableError: if no broker answers.
        """

    def open_source(self, topic: str) -> Source:
        """Open a reader of ``topic``.

        Raises:
            BrokerUnreachableError: if no broker answers.
        """
