"""Real worker processes and real signals: a slice of the chaos suite, and a clean stop.

On the embedded broker and SQLite, and with Apache Kafka's jars (``DISCREET_TEST_KAFKA_LIBS``) on a broker and a
PostgreSQL of its own as well, with links that are parted and clocks that are stepped. The whole suite is
``tests/benchmarks/chaos.py``.
"""

import gc
import os
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks import chaos
from tests.benchmarks.chaos_load import load

LIBS = os.environ.get("DISCREET_TEST_KAFKA_LIBS", "")
PLANS = {
    "embedded": ["kill", "clock step", "terminate"],
    "kafka": ["kill", "clock step", "parted from both", "database restart", "broker restart", "leave"],
}


@pytest.fixture(scope="module", params=["embedded", *(["kafka"] if LIBS else [])])
def kind(request):
    return request.param


def collect():
    """Let the sockets go that kafka-python leaves to the collector when a connection is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def world(kind, tmp_path_factory):
    made = chaos.World(tmp_path_factory.mktemp("chaos"), Path(LIBS) if kind == "kafka" else None)
    yield made
    made.close()
    collect()


# The harness loses its connections too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
def test_parts_that_fail_lose_nothing_and_double_nothing(world, kind, monkeypatch):
    plan = [(fault, 1.0) for fault in PLANS[kind]]
    monkeypatch.setattr(chaos, "faults", lambda _world, _choice: plan)
    monkeypatch.setattr(chaos, "CLOCK_STEPS", (-90, 90))  # within what events may be ahead of the clock
    result = chaos.run(world, 6, events_per_run=300, patience_seconds=300)
    collect()
    assert result.faults == PLANS[kind]
    assert result.good, result
    assert result.effects > 200
    assert chaos.recount(world, [result]) == []
    assert chaos.leaks(world) == []
    # And asked to stop, a worker that has caught up (the one that has run longest) leaves with status 0.
    world.workers.end(world.workers.running[0], signal.SIGTERM)
    assert world.workers.exits["asked to stop: 0"] >= 1


def test_the_same_seed_makes_the_same_load():
    first, second = list(load(3, 50)), list(load(3, 50))
    assert [(sent.name, sent.kind, sent.effect) for sent in first] == [
        (sent.name, sent.kind, sent.effect) for sent in second
    ]
    assert {sent.kind for sent in first} == {"interaction", "consent", "erasure", "ack"}
    assert {sent.effect for sent in first} == {True, False}


def test_counting_notices_what_is_lost_doubled_and_wrong():
    """The harness itself: each kind of damage shows."""
    events = {sent.name: sent for sent in load(3, 60) if sent.kind == "interaction"}
    good = [name for name, sent in events.items() if sent.effect]
    kept = [name for name in good if not events[name].left]  # the others' users are erased
    bad = [name for name, sent in events.items() if not sent.effect]

    letters = SimpleNamespace(
        origins={name: {"t/0/1"} for name in bad},
        reasons={name: set(events[name].letters) for name in bad},
        copies=dict.fromkeys(bad, 1),
    )

    class Found:
        def __init__(self, effects=good):
            self.letters = letters
            self.marks = dict.fromkeys(effects)

        def fates(self, names):
            return self.marks

        def signals(self, names):
            return dict.fromkeys(kept, 1)

        def certificates(self, requests):
            return 0

    def counted(found):
        result = chaos.Run(3)
        chaos.count(found, result, events, [])
        return result

    assert counted(Found()).good
    gone = next(name for name in good if events[name].left)
    kept.append(gone)
    assert counted(Found()).came_back == 1
    kept.remove(gone)
    assert counted(Found(good[1:])).lost == 1
    letters.origins[good[0]] = {"t/0/5"}
    letters.reasons[good[0]] = {"consent_missing"}
    letters.copies[good[0]] = 1
    assert counted(Found()).doubled == 1
    letters.reasons[good[0]] = {"processing_failed"}
    assert "processing_failed" in counted(Found()).problems[0]
