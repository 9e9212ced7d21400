"""Real worker processes and real signals on the embedded broker: a slice of the chaos suite, and a clean stop.

The whole suite, on Apache Kafka and PostgreSQL with their restarts, is ``tests/benchmarks/chaos.py``.
"""

import random
import signal

import pytest

from tests.benchmarks import chaos


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = chaos.World(tmp_path_factory.mktemp("chaos"), None)
    yield made
    made.close()


@pytest.mark.timeout(500)
def test_killed_and_replaced_workers_lose_nothing_and_double_nothing(world, monkeypatch):
    plan = [("kill", 2.0), ("terminate", 1.0)]
    monkeypatch.setattr(chaos, "faults", lambda _world, _choice: plan)
    world.workers.start()
    result = chaos.run(world, 6, events_per_run=300, patience_seconds=300)
    assert result.faults == ["kill", "terminate"]
    assert result.good, result
    assert result.effects + result.letters == 300
    # And asked to stop, a worker that has caught up leaves with status 0.
    last = world.workers.running[-1]
    world.workers.end(last, signal.SIGTERM)
    assert world.workers.exits["asked to stop: 0"] >= 1


def test_the_same_seed_makes_the_same_load():
    first = [(name, good, record.value) for name, good, record in chaos.events(3, 50, random.Random(3))]
    second = [(name, good, record.value) for name, good, record in chaos.events(3, 50, random.Random(3))]
    assert [entry[:2] for entry in first] == [entry[:2] for entry in second]
    assert {good for _, good, _ in first} == {True, False}
