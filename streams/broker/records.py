"""Records: as a consumer hands them over, a run of them from one partition, and as a producer sends them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.broker.progress import PartitionProgress


class SourceRecord(Protocol):
    """What the pipeline reads of a Kafka record; aiokafka's and kafka-python's records both have it."""

    @property
    def topic(self) -> str:
        """Name of the topic."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    @property
    def offset(self) -> int:
        """Position in the partition."""

    @property
    def timestamp(self) -> int:
        """Time the broker keeps for the record, in milliseconds since 1970."""

    @property
    def key(self) -> bytes | None:
        """Raw key."""

    @property
    def value(self) -> bytes | None:
        """Raw value; ``None`` is a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Header names and raw values; Kafka allows a header without one."""


class FetchedRecord(NamedTuple):
    """A ``SourceRecord`` as the worker fetches it: what is read of it, and no more, for there are very many.

    The properties are what Faust itself reads of a record, for an app of its own kind in the same process.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @property
    def timestamp_type(self) -> int:
        """The producer's time: topics here are made so (Kafka's ``CreateTime``)."""
        return 0

    @property
    def checksum(self) -> None:
        """Records of today's format have none of their own."""
        return

    @property
    def serialized_key_size(self) -> int:
        """Bytes of the key; -1 without one, as aiokafka says."""
        return -1 if self.key is None else len(self.key)

    @property
    def serialized_value_size(self) -> int:
        """Bytes of the value; -1 without one."""
        return -1 if self.value is None else len(self.value)


@dataclass(frozen=True, slots=True)
class RecordRun:
    """Consecutive records of one partition, with the progress that settling them advances."""

    records: Sequence[SourceRecord]
    progress: PartitionProgress


class OutgoingRecord(NamedTuple):
    """A record as a producer sends it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class RecordSender(Protocol):
    """Sends records and returns when all are confirmed by all in-sync replicas."""

    def send_all(self, records: Sequence[OutgoingRecord]) -> None:
        """Send and wait.

        Raises:
            BrokerUnavailableError: at least one record was not confirmed; it may still have been written.
        """


class Blame(StrEnum):
    """What a record that was not confirmed failed on."""

    RECORD = "record"  # itself, as far as one can tell: another attempt will fail the same way
    TOPIC = "topic"  # its topic is missing, or may not be written: whatever goes there fails
    BROKER = "broker"  # no answer in time: another attempt may succeed


@dataclass(frozen=True, slots=True)
class SendFailure:
    """Why one record was not confirmed; it may still have been written.

    Attributes:
        blame: what it failed on. Where several records were sent together it is a guess, since after some errors a
            producer fails with the same words whatever else it holds.
        error: name of the client's error.
    """

    blame: Blame
    error: str


class EachSender(Protocol):
    """Sends records and says of each what became of it."""

    def send_each(self, records: Sequence[OutgoingRecord]) -> list[SendFailure | None]:
        """Send, wait, and return per record ``None`` once it is confirmed by all in-sync replicas, or why it was not.

        It never raises.
        """
