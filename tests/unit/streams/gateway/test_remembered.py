"""What is kept for feedback: to whom it is given, for how long, how much of it, and in what form."""

from __future__ import annotations

import pytest

from streams.gateway.remembered import Remembered, Shown


class Seconds:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


def shown(text="answer", **changes):
    given = {"prompt": "secret question", "completion": text, "domain": "default", "served_name": None}
    return Shown(**{**given, **changes})


def kept(seconds, **bounds):
    return Remembered(**{"most": 10, "most_bytes": 10_000, "seconds": 60.0, "monotonic": seconds, **bounds})


def test_an_answer_comes_back_to_its_own_user(seconds):
    store = kept(seconds)
    store.keep("c1", "acme", "ann", shown(served_name="a-x-v1", whole=False))
    assert store.recall("c1", "acme", "ann") == shown(served_name="a-x-v1", whole=False)


@pytest.mark.parametrize("who", [("acme", "bob"), ("globex", "ann"), ("acm", "eann")])
def test_nobody_else_gets_it(seconds, who):
    store = kept(seconds)
    store.keep("c1", "acme", "ann", shown())
    assert store.recall("c1", *who) is None


def test_it_is_gone_after_its_time(seconds):
    store = kept(seconds)
    store.keep("c1", "acme", "ann", shown())
    seconds.now = 59.9
    assert store.recall("c1", "acme", "ann") is not None
    seconds.now = 60.0
    assert store.recall("c1", "acme", "ann") is None
    assert (len(store), store.bytes) == (0, 0)


def test_the_oldest_go_first(seconds):
    store = kept(seconds, most=3)
    for number in range(5):
        store.keep(f"c{number}", "acme", "ann", shown())
    assert [store.recall(f"c{number}", "acme", "ann") is not None for number in range(5)] == [0, 0, 1, 1, 1]


def test_bytes_are_bounded(seconds):
    store = kept(seconds, most=1_000, most_bytes=5_000)
    for number in range(100):
        store.keep(f"c{number}", "acme", "ann", shown("x" * 500))
        assert store.bytes <= 5_000
    assert 0 < len(store) < 10
    store.keep("huge", "acme", "ann", shown("x" * 6_000))
    assert store.recall("huge", "acme", "ann") is None
    assert len(store) > 0


@pytest.mark.parametrize("bounds", [{"most": 12}, {"most": 1_000, "most_bytes": 3_000}])
def test_a_flood_of_one_tenant_drives_out_its_own_answers_alone(seconds, bounds):
    store = kept(seconds, **bounds)
    for number in range(3):
        store.keep(f"quiet-{number}", "acme", "ann", shown())
    for number in range(200):
        store.keep(f"flood-{number}", "hog", f"user-{number}", shown())
    assert all(store.recall(f"quiet-{number}", "acme", "ann") for number in range(3))
    assert store.recall("flood-199", "hog", "user-199") is not None
    store.keep("late", "globex", "joe", shown())  # and whoever comes later finds room
    assert store.recall("late", "globex", "joe") is not None
    for number in range(200):
        store.forget("hog", f"user-{number}")
    assert len(store) == 4
    store.forget("acme", "ann")
    store.forget("globex", "joe")
    assert (store.bytes, dict(store._of_tenant), dict(store._bytes_of)) == (0, {}, {})


def test_a_user_is_forgotten_at_once_and_alone(seconds):
    store = kept(seconds)
    for number in range(3):
        store.keep(f"a{number}", "acme", "ann", shown())
    store.keep("b", "acme", "bob", shown())
    store.forget("acme", "ann")
    assert len(store) == 1
    assert store.recall("b", "acme", "bob") is not None
    store.forget("acme", "nobody")


def test_no_text_and_no_name_is_kept_in_the_clear(seconds):
    store = kept(seconds)
    store.keep("c1", "acme", "ann-the-user", shown("a rare phrase"))
    held = repr(vars(store)).encode() + b"".join(one.sealed + one.who for one in store._kept.values())
    for secret in (b"rare phrase", b"secret question", b"ann-the-user"):
        assert secret not in held


def test_two_processes_cannot_read_each_others(seconds):
    one, other = kept(seconds), kept(seconds)
    one.keep("c1", "acme", "ann", shown())
    other._kept, other._names = one._kept, one._names
    assert other.recall("c1", "acme", "ann") is None


def test_a_sealed_answer_belongs_to_its_id(seconds):
    store = kept(seconds)
    store.keep("c1", "acme", "ann", shown("one"))
    store.keep("c2", "acme", "ann", shown("two"))
    store._kept["c1"], store._kept["c2"] = store._kept["c2"], store._kept["c1"]
    assert store.recall("c1", "acme", "ann") is None
