"""Events wait on disk while there is no broker, outlive their process, and reach the broker once it is back."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streams.client import (
    BrokerUnreachableError,
    BufferFullError,
    ClosedError,
    DeliveryError,
    DiskQueue,
    InteractionPublisher,
)
from streams.client.testing import InMemoryBroker
from streams.contracts.codec import decode_interaction
from streams.contracts.topics import INTERACTIONS

EVENT = {
    "tenant_id": "acme",
    "user_id": "u-1",
    "prompt": "Where is it?",
    "completion": "There.",
    "outcome": {"kind": "accepted"},
    "notice_version": "1",
    "occurred_at": datetime(2026, 3, 2, tzinfo=UTC),
}


@pytest.fixture
def broker():
    found = InMemoryBroker()
    found.set_reachable(False)
    return found


def publish(queue, *numbers):
    with InteractionPublisher(queue, source="/edge") as publisher:
        for number in numbers:
            publisher.publish({**EVENT, "interaction_id": f"i-{number}"}, event_id=f"e-{number}").wait(10)


def arrived(broker):
    decoded = [decode_interaction(r.headers, r.value, key=r.key) for r in broker.records(INTERACTIONS.name)]
    return [one.data.interaction_id for one in decoded]


def test_what_is_published_offline_arrives_in_order_once_the_broker_is_back(broker, tmp_path):
    queue = DiskQueue(tmp_path / "queue.db", broker)
    publish(queue, 1, 2, 3)
    assert queue.hand_over() == (0, 3)
    with pytest.raises(BrokerUnreachableError):
        queue.open_source(INTERACTIONS.name)
    broker.set_reachable(True)
    assert queue.hand_over() == (3, 0)
    assert queue.hand_over() == (0, 0)
    assert arrived(broker) == ["i-1", "i-2", "i-3"]
    queue.close()
    with pytest.raises(ClosedError):
        publish(queue, 4)


def test_what_waits_outlives_a_process_that_dies(broker, tmp_path):
    path = tmp_path / "deep" / "queue.db"
    code = (
        "import os, pathlib; from tests.unit.streams.client.test_disk_queue import *\n"
        f"queue = DiskQueue(pathlib.Path({str(path)!r}), InMemoryBroker())\n"
        "publish(queue, *range(5)); os._exit(9)"
    )
    root = Path(__file__).resolve().parents[4]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 9
    queue = DiskQueue(path, broker)
    assert len(queue) == 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    broker.set_reachable(True)
    assert queue.hand_over().waiting == 0
    assert arrived(broker) == [f"i-{number}" for number in range(5)]


def test_what_the_broker_did_not_confirm_waits_on_and_holds_nothing_up(broker, tmp_path):
    queue = DiskQueue(tmp_path / "queue.db", broker)
    publish(queue, 1, 2, 3)
    broker.set_reachable(True)
    broker.fail_next([DeliveryError("not now")])
    assert queue.hand_over() == (2, 1)
    assert queue.hand_over() == (1, 0)
    assert sorted(arrived(broker)) == ["i-1", "i-2", "i-3"]


def test_a_broker_that_goes_away_half_way_loses_nothing(broker, tmp_path, monkeypatch):
    queue = DiskQueue(tmp_path / "queue.db", broker)
    publish(queue, *range(6))
    broker.set_reachable(True)
    append, left = broker.append, [4]

    def fading(record):
        left[0] -= 1
        broker.set_reachable(left[0] >= 0)
        append(record)

    monkeypatch.setattr(broker, "append", fading)
    assert queue.hand_over() == (4, 2)
    monkeypatch.undo()
    broker.set_reachable(True)
    assert queue.hand_over() == (2, 0)
    assert arrived(broker) == [f"i-{number}" for number in range(6)]


def test_the_disk_is_not_filled(broker, tmp_path):
    queue = DiskQueue(tmp_path / "queue.db", broker, most_bytes=700)
    with pytest.raises(BufferFullError):
        publish(queue, *range(100))
    kept = len(queue)
    assert 1 <= kept <= 5
    queue.close()
    queue = DiskQueue(tmp_path / "queue.db", broker, most_bytes=700)
    with pytest.raises(BufferFullError):
        publish(queue, *range(100, 200))
    broker.set_reachable(True)
    queue.hand_over()
    publish(queue, 300)
    assert len(queue) == 1, "there is room again"


def test_it_hands_over_by_itself_when_it_is_let(broker, tmp_path):
    queue = DiskQueue(tmp_path / "queue.db", broker)
    publish(queue, 1)
    stop = threading.Event()
    thread = threading.Thread(target=queue.run, args=(stop,), kwargs={"every_seconds": 0.01})
    thread.start()
    broker.set_reachable(True)
    while len(queue):
        stop.wait(0.01)
    stop.set()
    thread.join()
    assert arrived(broker) == ["i-1"]


class Refusing:
    """A broker that refuses the events of some interactions, and may not answer when it is asked to flush."""

    def __init__(self, broker, refused, *, silent=False):
        self._broker, self._refused, self._silent = broker, refused, silent

    def open_sink(self):
        return RefusingSink(self._broker.open_sink(), self._refused, silent=self._silent)


class RefusingSink:
    def __init__(self, sink, refused, *, silent):
        self._sink, self._refused, self._silent = sink, refused, silent

    def send(self, record, on_done):
        if any(name.encode() in record.value for name in self._refused):
            raise DeliveryError("an event was refused")
        self._sink.send(record, on_done)

    def flush(self, timeout_seconds):
        self._sink.flush(timeout_seconds)
        if self._silent:
            raise DeliveryError("not every event was confirmed")

    def close(self, timeout_seconds):
        self._sink.close(timeout_seconds)
        if self._silent:
            raise DeliveryError("not every event was confirmed")


@pytest.mark.parametrize("silent", [False, True])
def test_an_event_that_is_refused_waits_alone(broker, tmp_path, silent):
    broker.set_reachable(True)
    queue = DiskQueue(tmp_path / "queue.db", Refusing(broker, ["i-1"], silent=silent))
    publish(queue, 1, 2, 3)
    assert queue.hand_over() == (2, 1)
    assert arrived(broker) == ["i-2", "i-3"]
    assert queue.hand_over() == (0, 1)
    assert arrived(broker) == ["i-2", "i-3"], "and nothing is sent again for its sake"
    queue.close()


def test_no_failure_ends_the_thread_that_hands_over(broker, tmp_path, monkeypatch):
    queue, stop, failures = DiskQueue(tmp_path / "queue.db", broker), threading.Event(), []
    publish(queue, 1)

    def fail(*_):
        failures.append(1)
        if len(failures) == 2:
            stop.set()
        raise DeliveryError("refused")

    monkeypatch.setattr(queue, "hand_over", fail)
    queue.run(stop, every_seconds=0.0)
    assert len(failures) == 2
    queue.close()


def test_what_was_handed_over_is_on_no_disk_any_more(broker, tmp_path):
    broker.set_reachable(True)
    queue = DiskQueue(tmp_path / "queue.db", broker)
    publish(queue, 1)
    assert any(b"Where is it?" in path.read_bytes() for path in tmp_path.iterdir())
    assert queue.hand_over() == (1, 0)
    assert not any(b"Where is it?" in path.read_bytes() for path in tmp_path.iterdir())
    queue.close()


def test_a_full_disk_is_said_in_our_words(broker, tmp_path):
    queue = DiskQueue(tmp_path / "queue.db", broker)
    queue._rows.execute("PRAGMA max_page_count = 1")
    with pytest.raises((BufferFullError, DeliveryError)):
        publish(queue, *range(200))
    queue.close()
