"""A restore reads erasures and consents to the end of their topics, or does not go on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka import TopicPartition

from privacy.errors import RewoundError
from streams.errors import BrokerUnavailableError
from streams.processes import restore

TOPIC = "erasures"


class Broker:
    """One partition of three records, of which a consumer is given the first few and then nothing more."""

    def __init__(self, gives):
        self._gives = gives
        self._at = 0
        self.closed = False

    def partitions_for_topic(self, _topic):
        return {0}

    def assign(self, _places):
        pass

    def beginning_offsets(self, places):
        return dict.fromkeys(places, 0)

    def end_offsets(self, places):
        return dict.fromkeys(places, 3)

    def seek(self, _place, offset):
        self._at = offset

    def position(self, _place):
        return self._at

    def poll(self, _milliseconds):
        if self._at >= self._gives:
            return {}
        self._at += 1
        return {TopicPartition(TOPIC, 0): [f"record {self._at}"]}

    def close(self):
        self.closed = True


def read_on(monkeypatch, gives, moved):
    broker, given = Broker(gives), []
    monkeypatch.setattr(restore, "open_consumer", lambda *_, **__: broker)
    monkeypatch.setattr(restore, "IDLE_POLLS", 3)
    handler = SimpleNamespace(process=lambda works: given.extend(work.record for work in works))
    services = SimpleNamespace(settings=SimpleNamespace(broker=None), engine=None)
    monkeypatch.setattr(restore, "transaction", lambda _: Session())
    monkeypatch.setattr(restore, "move_on", lambda _, offsets: moved.append(offsets))
    try:
        restore._read_on(services, TOPIC, handler, {})
    finally:
        assert broker.closed
        assert len(given) == gives


class Session:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_what_was_read_to_its_end_is_kept_as_consumed(monkeypatch):
    moved = []
    read_on(monkeypatch, 3, moved)
    assert moved == [{(TOPIC, 0): 3}]


def test_a_broker_that_falls_silent_before_the_end_ends_the_restore(monkeypatch):
    moved = []
    with pytest.raises(BrokerUnavailableError, match="not to its end"):
        read_on(monkeypatch, 2, moved)
    assert moved == []


class Group:
    """A broker that holds a group's offsets, of topics with two partitions each."""

    def __init__(self, committed):
        self._committed = committed
        self.set_back = {}

    def partitions_for_topic(self, _topic):
        return {0, 1}

    def committed(self, place):
        return self._committed.get((place.topic, place.partition))

    def assign(self, _places):
        pass

    def commit(self, offsets):
        self.set_back = {(place.topic, place.partition): held.offset for place, held in offsets.items()}

    def close(self):
        pass


def test_the_group_goes_back_to_what_the_backup_holds_and_to_the_start_of_what_it_does_not_know(monkeypatch):
    """A partition whose first record came after the backup and after the last anchored offsets stands in neither."""
    group = Group({("acks", 0): 3, ("acks", 1): 5, ("consent", 0): 7})
    monkeypatch.setattr(restore, "open_consumer", lambda *_, **__: group)
    services = SimpleNamespace(settings=SimpleNamespace(broker=SimpleNamespace(group="g", embedded=False)))
    stored = {("acks", 1): 4, ("consent", 0): 7}
    assert restore._set_group_back(services, ["acks", "consent"], stored) == 3 + 1
    assert group.set_back == {("acks", 0): 0, ("acks", 1): 4}


@pytest.mark.parametrize("accepts", [False, True])
def test_a_lost_anchor_is_written_anew_only_where_somebody_says_that_the_database_is_the_newest(
    monkeypatch, accepts
):
    for name in ("adapter_signer", "check_master_key"):
        monkeypatch.setattr(restore, name, lambda *_, **__: None)
    monkeypatch.setattr(restore, "behind", lambda _: ["the anchor is lost"])
    monkeypatch.setattr(restore, "transaction", lambda _: Session())
    monkeypatch.setattr(restore, "reading", lambda _: Session())
    monkeypatch.setattr(restore, "consumed", lambda _: {})

    class GoesOnError(Exception):
        pass

    def handlers(_):
        raise GoesOnError

    monkeypatch.setattr(restore.wiring, "handlers", handlers)
    services = SimpleNamespace(
        clock=SimpleNamespace(now=lambda: None),
        engine=None,
        keyring=None,
        settings=None,
        anchor=SimpleNamespace(lost=lambda _: "the anchor is gone"),
    )
    with pytest.raises(GoesOnError if accepts else RewoundError):
        restore.restore(services, actor="root", reason="A backup.", accept_lost_anchor=accepts)
