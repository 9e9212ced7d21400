"""Readings are taken beside the trainer, counted, and taken up again after a failure."""

from __future__ import annotations

import re
import threading

import pytest

from privacy.errors import StorageError
from streams.processes.drift import DriftReader
from streams.telemetry.trainer_metrics import TrainerMetrics
from tests.fakes.drifting import WEEK, DriftWorld

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.usefixtures("fixed_draws"),
]


def test_the_thread_reads_what_is_due_tells_metrics_and_goes_on_after_a_failure(engine, monkeypatch):
    world = DriftWorld(engine)
    world.week()
    world.week()
    world.ask(changed=True)
    world.now += WEEK
    metrics, done = TrainerMetrics(stall_seconds=60.0), threading.Event()
    reader = DriftReader(engine, lambda: world.now, world.readings(), seconds=0.01, observer=metrics)
    whole, calls = reader.read, []

    def sometimes():
        calls.append(1)
        if len(calls) == 1:
            raise StorageError("the database is away in this test")
        if whole():
            done.set()

    monkeypatch.setattr(reader, "read", sometimes)
    with reader:
        assert done.wait(20)
    text = metrics.exposition().decode()
    assert 'discreet_drift_readings_total{outcome="released"} 1.0' in text
    assert re.search(r'discreet_drift_alarms_total\{family="\w+",followed="told"\} 1\.0', text)
    assert 'discreet_chore_failures_total{chore="drift"} 1.0' in text
    assert "acme" not in text
