"""What a worker shows: every metric that operators rely on, and no label that names a person or a tenant."""

import asyncio
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from streams.broker.app import make_app
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import ERASURES
from streams.ingest.intake import Intake
from streams.ingest.work import Outcome
from streams.settings import BrokerSettings, IngestSettings
from streams.telemetry.metrics import WorkerMetrics

NAMES = {
    "discreet_lag_events",
    "discreet_oldest_unprocessed_seconds",
    "discreet_stalled_seconds",
    "discreet_ingest_latency_seconds",
    "discreet_batch_events",
    "discreet_batch_seconds",
    "discreet_rebalances",
    "discreet_dead_letters",
    "discreet_events",
    "discreet_retries",
    "discreet_buffered_events",
    "discreet_held_events",
    "discreet_outbox_waiting",
    "discreet_outbox_parked",
    "discreet_failed_logins",
    "discreet_chore_failures",
    "process_resident_memory_bytes",
}


def test_every_metric_is_there_and_none_names_anybody():
    metrics = WorkerMetrics()
    metrics.reads([ERASURES.name])
    work = SimpleNamespace(record=SimpleNamespace(timestamp=0))
    metrics.batch_done("t", [work], Outcome(effects=1), 0.1)
    metrics.dead_lettered([("t", "json_invalid"), ("t", "json_invalid")])
    metrics.lag.labels("t", "0").set(3)
    metrics.retrying("t")
    metrics.held("t", 37)
    metrics.held("u", 0)
    families = list(text_string_to_metric_families(metrics.exposition().decode()))
    assert {family.name for family in families} >= NAMES
    labels = {name for family in families for sample in family.samples for name in sample.labels}
    assert labels <= {"topic", "outcome", "reason", "partition", "le", "error"}

    def value(name, **wanted):
        (found,) = [
            sample.value
            for family in families
            for sample in family.samples
            if (sample.name, sample.labels) == (name, wanted)
        ]
        return found

    assert value("discreet_dead_letters_total", topic="t", reason="json_invalid") == 2
    assert (
        value("discreet_dead_letters_total", topic=ERASURES.name, reason=DeadLetterReason.PROCESSING_FAILED)
        == 0
    )
    assert value("discreet_slowed_tenants_total", topic=ERASURES.name) == 0
    assert value("discreet_held_events", topic="t") == 100
    assert value("discreet_held_events", topic="u") == 0


def test_faust_serves_no_pages_and_keeps_no_tables():
    async def made():
        intakes = {"t": Intake("t", None, IngestSettings())}
        app = make_app(BrokerSettings(), intakes, max_poll_records=10)
        app.consumer._thread.thread_loop.close()  # made for a thread that is never started here
        return app.conf.web_enabled, dict(app.tables), app.conf.topic_allow_declare

    assert asyncio.run(made()) == (False, {}, False)
