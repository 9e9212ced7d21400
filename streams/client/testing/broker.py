"""A broker in memory for tests of programs that use this client; no network, no thread.

It behaves like Kafka where this client can tell the difference: partitions chosen by key, offsets,
tombstones, order within a partition, topics that must exist, and compaction on request. One behaviour suite
runs against it and against real brokers.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence

from ...contracts.codec import Record
from ...contracts.topics import TOPICS
from ..errors import BrokerUnreachableError
from ..transport import OnDone, StoredRecord
from .adapters import FakeLine, FakeSigner

__all__ = ["FakeLine", "FakeSigner", "InMemoryBroker", "InMemorySink", "InMemorySource"]


class InMemoryBroker:
    """Topics in memory; give it to a publisher or a feed in the place of an address.

    Args:
        topics: partitions per topic; by default every topic of the contract.
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        if topics is None:
            topics = {topic.name: topic.partitions for topic in TOPICS}
        self._changed = threading.Condition()
        self._logs: dict[str, list[list[StoredRecord]]] = {}
        self._ends: dict[str, list[int]] = {}
        self._failures: list[BaseException] = []
        self._reachable = True
        for name, partitions in topics.items():
            self.create_topic(name, partitions)

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Make an empty topic; an existing one is replaced."""
        with self._changed:
            self._logs[name] = [[] for _ in range(partitions)]
            self._ends[name] = [0] * partitions

    def open_sink(self) -> InMemorySink:
        """Open a writer."""
        self.check_reachable()
        return InMemorySink(self)

    def open_source(self, topic: str) -> InMemorySource:
        """Open a reader of ``topic``."""
        self.check_reachable()
        return InMemorySource(self, topic)

    def records(self, topic: str) -> list[StoredRecord]:
        """Return everything a topic holds, partition by partition."""
        with self._changed:
            return [record for log in self._logs.get(topic, []) for record in log]

    def compact(self, topic: str) -> None:
        """Keep the last record of each key, as a broker does with a compacted topic some time later."""
        with self._changed:
            for log in self._logs[topic]:
                last = {record.key: record.offset for record in log}
                log[:] = [record for record in log if last[record.key] == record.offset]

    def drop_tombstones(self, topic: str) -> None:
        """Remove tombstones, as a broker does when their retention has passed."""
        with self._changed:
            for log in self._logs[topic]:
                log[:] = [record for record in log if record.value is not None]

    def fail_next(self, errors: Iterable[BaseException]) -> None:
        """Let the next records fail with these errors, one each, instead of being stored."""
        with self._changed:
            self._failures.extend(errors)

    def set_reachable(self, reachable: bool) -> None:
        """Let the broker vanish or come back."""
        with self._changed:
            self._reachable = reachable
            self._changed.notify_all()

    def check_reachable(self) -> None:
        """Raise ``BrokerUnreachableError`` while the broker is away."""
        if not self._reachable:
            raise BrokerUnreachableError("the in-memory broker is away; call set_reachable(True)")

    def append(self, record: Record) -> None:
        """Store one record in the partition of its key."""
        with self._changed:
            self.check_reachable()
            if self._failures:
                raise self._failures.pop(0)
            if record.topic not in self._logs:
                raise BrokerUnreachableError(
                    f"the topic {record.topic} is not known to the broker; create the topics first"
                )
            number = zlib.crc32(record.key) % len(self._logs[record.topic])
            offset = self._ends[record.topic][number]
            self._ends[record.topic][number] = offset + 1
            stored = StoredRecord(number, offset, record.key, record.value, tuple(record.headers))
            self._logs[record.topic][number].append(stored)
            self._changed.notify_all()

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return per partition the first stored offset and the next one."""
        with self._changed:
            self.check_reachable()
            return {
                number: (log[0].offset if log else end, end)
                for number, (log, end) in enumerate(
                    zip(self._logs.get(topic, []), self._ends.get(topic, []), strict=True)
                )
            }

    def read(self, topic: str, positions: dict[int, int], timeout_seconds: float) -> list[StoredRecord]:
        """Return what lies at or after ``positions`` and move them on; wait for the first record."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                found: list[StoredRecord] = []
                if self._reachable:
                    for number, log in enumerate(self._logs.get(topic, [])):
                        position = positions.get(number, 0)
                        found.extend(record for record in log if record.offset >= position)
                        positions[number] = self._ends[topic][number]
                remaining = deadline - time.monotonic()
                if found or remaining <= 0:
                    return found
                self._changed.wait(remaining)


class InMemorySink:
    """Writes to the broker at once; an outcome is known when ``send`` returns."""

    def __init__(self, broker: InMemoryBroker) -> None:
        self._broker = broker

    def send(self, record: Record, on_done: OnDone) -> None:
        """Store one record, or tell ``on_done`` why not."""
        try:
            self._broker.append(record)
        except BrokerUnreachableError:
            raise
        except BaseException as error:  # noqa: BLE001  # planted by fail_next
            on_done(error)
        else:
            on_done(None)

    def flush(self, timeout_seconds: float) -> None:
        """Nothing waits."""

    def close(self, timeout_seconds: float) -> None:
        """Nothing to give back."""


class InMemorySource:
    """Reads one topic."""

    def __init__(self, broker: InMemoryBroker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._positions: dict[int, int] = {}

    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Return the first and the next offset of each partition."""
        return self._broker.bounds(self._topic)

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading ``partition`` at ``offset``."""
        self._positions[partition] = offset

    def position(self, partition: int) -> int:
        """Return the next offset that will be read."""
        return self._positions.get(partition, 0)

    def poll(self, timeout_seconds: float) -> Sequence[StoredRecord]:
        """Return what there is."""
        return self._broker.read(self._topic, self._positions, timeout_seconds)

    def close(self) -> None:
        """Nothing to give back."""
