"""Real rounds of a trainer with two tenants, one of which another trainer takes over: each counts as what it was."""

from __future__ import annotations

import threading
from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from personalization.rounds.tables import RoundRow
from streams.telemetry.trainer_metrics import TrainerMetrics
from tests.fakes.training import Workshop


def test_what_a_trainer_does_is_counted(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    for name in ("acme", "beta"):
        shop.add_tenant(name)
    lost, _ = shop.open_round("acme"), shop.open_round("beta")
    shop.outcomes = metrics = TrainerMetrics(stall_seconds=60.0)

    def steal(should_stop):
        shop.trainer.during = lambda _should_stop: None
        with shop.session() as session:
            row = session.get(RoundRow, lost)
            row.epoch, row.lease_owner = row.epoch + 1, "another"
            session.add(row)
        waited = threading.Event()
        while not should_stop():
            waited.wait(0.01)

    shop.trainer.during = steal
    shop.process(lease=timedelta(seconds=0.3)).run_once()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }
    assert found[("discreet_rounds_leased_total",)] == 2
    assert found[("discreet_leases_lost_total",)] == 1
    assert found["discreet_rounds_closed_total", "published"] == 1
    assert found["discreet_job_seconds_count", "failed"] == 1
    assert found["discreet_job_seconds_count", "succeeded"] == 1
