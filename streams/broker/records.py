"""Records: as a consumer hands them over, a run of them from one partition, and as a producer sends them."""

from __future__ import annotations

from dataclasses import dataclass
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
