"""Reading fetched records whose header names are not UTF-8, which aiokafka 0.14 cannot.

One such record, which any producer may write, would make every fetch of its partition raise, and the worker would
never get past it. A partition's data is read by aiokafka's fast reader as long as that works; from the record on that
it cannot read, aiokafka's plain Python reader goes on with it, and what is not UTF-8 in a header's name is escaped
with backslashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

import structlog
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

from streams.broker.records import FetchedRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiokafka import TopicPartition

log = structlog.get_logger(__name__)

FIRST_MAGIC_WITH_HEADERS = 2


class _Text(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _Buffer(bytearray):
    """The bytes of a batch; pieces of it decode without raising."""

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        found = super().__getitem__(place)
        return _Text(found) if isinstance(place, slice) else found


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final for type checkers only
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _LenientMemoryRecords(_MemoryRecordsPy):  # type: ignore[misc]  # final for type checkers only
    def next_batch(self) -> Any:
        slice_ = self._next_slice
        if slice_ is None or slice_[self.MAGIC_OFFSET] < FIRST_MAGIC_WITH_HEADERS:
            return super().next_batch()
        self._cache_next()
        return _LenientBatch(slice_)


class KeptMemoryRecords:
    """aiokafka's records of one partition, with the bytes they are read from."""

    __slots__ = ("_records", "data", "has_next", "next_batch", "size_in_bytes")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._records = records = MemoryRecords(data)
        self.has_next = records.has_next
        self.next_batch = records.next_batch
        self.size_in_bytes = records.size_in_bytes


class LenientPartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped here
    """The records of one fetched partition, whatever their headers are called, each a ``FetchedRecord``."""

    _records: Any

    def _consumer_record(self, tp: TopicPartition, record: Any) -> FetchedRecord:
        # A named tuple at half the cost of a call of its class, and a third of aiokafka's own record.
        return tuple.__new__(
            FetchedRecord,
            (
                tp.topic,
                tp.partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                tuple(record.headers),
            ),
        )

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except UnicodeDecodeError:
            log.warning("header_name_not_utf8", topic=self._tp.topic, partition=self._tp.partition)
            self._records = _LenientMemoryRecords(self._records.data)
            # Starts over with the data and leaves out what lies before ``next_fetch_offset``.
            yield from super()._unpack_records()


def install() -> None:
    """Let every aiokafka consumer of this process read that way; doing it twice changes nothing."""
    fetcher.MemoryRecords = KeptMemoryRecords
    fetcher.PartitionRecords = LenientPartitionRecords
