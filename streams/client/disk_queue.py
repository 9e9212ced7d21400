"""Events wait on disk while there is no broker, and are handed to it later; for machines that are often offline.

A ``DiskQueue`` stands where a broker does. A publisher over it is told that an event is delivered once the event is
safe on this disk (SQLite, synced). ``hand_over`` sends what waits, in order, and removes an event only after the broker
has confirmed it: a machine that dies in between sends it again under the same id, and the receiver counts it once.

The file holds what users wrote, in plain text and readable by its owner alone: it belongs on an encrypted disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from pathlib import Path
from typing import NamedTuple

from ..contracts.codec import Record
from .errors import BrokerUnreachableError, BufferFullError, ClientError, ClosedError, DeliveryError
from .transport import Broker, OnDone, Sink, Source

MOST_BYTES = 256 * 2**20
AT_ONCE = 200  # records that are on their way before what the broker confirmed is removed
_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB, headers TEXT NOT NULL
)
"""


class HandedOver(NamedTuple):
    """What one attempt did: events that the broker has confirmed, and events that wait still."""

    sent: int
    waiting: int


class DiskQueue:
    """A queue in one file; give it to publishers in the place of a broker. Safe to use from several threads.

    Args:
        path: of the file; its folder is made. One process at a time.
        broker: where events go in the end.
        most_bytes: that may wait; beyond it publishing raises ``BufferFullError``.
    """

    def __init__(self, path: Path, broker: Broker, *, most_bytes: int = MOST_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)  # also of a file that was there
        self._broker = broker
        self._most_bytes = most_bytes
        self._lock = threading.RLock()
        self._handing = threading.Lock()
        self._closed = False
        self._rows = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = FULL")
        self._rows.execute("PRAGMA secure_delete = ON")  # what was handed over does not stay in free pages
        self._rows.execute(_SCHEMA)
        self._bytes = int(
            self._rows.execute(
                "SELECT COALESCE(SUM(LENGTH(key) + COALESCE(LENGTH(value), 0)), 0) FROM waiting"
            ).fetchone()[0]
        )

    def __len__(self) -> int:
        with self._lock:
            return int(self._rows.execute("SELECT COUNT(*) FROM waiting").fetchone()[0])

    def open_sink(self) -> Sink:
        """Open a writer to the disk; no broker need answer."""
        return _DiskSink(self)

    def open_source(self, topic: str) -> Source:
        """Open a reader of the broker's topic; see ``Broker``."""
        return self._broker.open_source(topic)

    def keep(self, record: Record) -> None:
        """Write a record to the disk, synced.

        Raises:
            BufferFullError: as much waits as may, or the disk is full.
            DeliveryError: the disk does not take it, or another process holds the file.
            ClosedError: the queue was closed.
        """
        size = _size(record.key, record.value)
        headers = json.dumps([[name, value.decode()] for name, value in record.headers])
        with self._lock:
            if self._closed:
                raise ClosedError("the queue is closed; open a new one")
            if self._bytes + size > self._most_bytes:
                raise BufferFullError(f"{self._most_bytes} bytes wait on disk already; hand them over first")
            try:
                self._rows.execute(
                    "INSERT INTO waiting (topic, key, value, headers) VALUES (?, ?, ?, ?)",
                    (record.topic, record.key, record.value, headers),
                )
            except sqlite3.Error as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise BufferFullError("the disk of the queue is full; free some of it") from error
                raise DeliveryError(
                    f"the queue's file takes no event ({error.sqlite_errorname}); look after it"
                ) from error
            self._bytes += size

    def hand_over(self, timeout_seconds: float = 60.0) -> HandedOver:
        """Send what waits to the broker, oldest first; what it does not confirm waits on.

        Args:
            timeout_seconds: for each batch to be confirmed.
        """
        sent, after = 0, 0
        with self._handing:
            try:
                sink = self._broker.open_sink()
            except BrokerUnreachableError:
                return HandedOver(0, len(self))
            try:
                while batch := self._oldest(after):
                    confirmed = self._sent(sink, batch, timeout_seconds)
                    sent += len(confirmed)
                    after = max(batch)
                    if (
                        not confirmed
                    ):  # nothing gets through: later is better than the whole queue against a wall
                        break
            finally:
                with contextlib.suppress(DeliveryError):  # what is not confirmed by now waits on
                    sink.close(timeout_seconds)
        return HandedOver(sent, len(self))

    def run(self, stop: threading.Event, *, every_seconds: float = 30.0) -> None:
        """Hand over again and again until ``stop`` is set; for a thread of its own, which no failure ends."""
        while not stop.is_set():
            with contextlib.suppress(ClientError, sqlite3.Error):  # what waits is told by ``len``
                if len(self):
                    self.hand_over()
            stop.wait(every_seconds)

    def close(self) -> None:
        """Close the file; what waits stays in it."""
        with self._handing, self._lock:
            if not self._closed:
                self._closed = True
                self._rows.close()

    def _oldest(self, after: int) -> dict[int, Record]:
        with self._lock:
            rows = self._rows.execute(
                "SELECT number, topic, key, value, headers FROM waiting WHERE number > ? ORDER BY number LIMIT ?",
                (after, AT_ONCE),
            ).fetchall()
        return {
            number: Record(topic, key, value, [(name, text.encode()) for name, text in json.loads(headers)])
            for number, topic, key, value, headers in rows
        }

    def _sent(self, sink: Sink, batch: dict[int, Record], timeout_seconds: float) -> list[int]:
        """Send a batch, and remove what the broker confirmed; return its numbers."""
        confirmed: list[int] = []
        for number, record in batch.items():

            def done(error: BaseException | None, number: int = number) -> None:
                if error is None:
                    confirmed.append(number)

            try:
                sink.send(record, done)
            except BrokerUnreachableError:
                break
            except DeliveryError:
                continue  # this one alone is refused; those behind it need not wait for it
        with contextlib.suppress(DeliveryError):  # of what was confirmed in time we know
            sink.flush(timeout_seconds)
        gone = list(confirmed)  # what is confirmed later waits on, and is sent again under its id
        self._remove(gone, sum(_size(batch[number].key, batch[number].value) for number in gone))
        return gone

    def _remove(self, numbers: list[int], size: int) -> None:
        with self._lock:
            self._rows.execute("BEGIN IMMEDIATE")
            self._rows.executemany("DELETE FROM waiting WHERE number = ?", [(number,) for number in numbers])
            self._rows.execute("COMMIT")
            self._rows.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            )  # the log beside the file held the texts too
            self._bytes -= size


class _DiskSink:
    """Writes to the queue; an event's fate is known when ``send`` returns."""

    def __init__(self, queue: DiskQueue) -> None:
        self._queue = queue

    def send(self, record: Record, on_done: OnDone) -> None:
        self._queue.keep(record)
        on_done(None)

    def flush(self, timeout_seconds: float) -> None:  # all of it is on disk already
        """Do nothing."""

    def close(self, timeout_seconds: float) -> None:  # the queue is its maker's to close
        """Do nothing."""


def _size(key: bytes, value: bytes | None) -> int:
    return len(key) + len(value or b"")
