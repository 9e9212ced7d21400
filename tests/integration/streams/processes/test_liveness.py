"""Liveness on a real broker: judged by its end offsets, so a worker that hangs is seen whatever Faust thinks."""

import asyncio
import secrets
import threading

import aiohttp
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from privacy.policy.ceilings import PolicyCeilings
from streams.broker.app import make_app
from streams.http.server import HttpServer
from streams.http.tokens import Access
from streams.ingest.intake import Intake
from streams.ingest.work import Outcome
from streams.processes import liveness
from streams.settings import BrokerSettings, HttpSettings, IngestSettings
from streams.telemetry.metrics import WorkerMetrics
from tests.fakes.stream_records import NOW

EVENTS = 20
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Hanging:
    """A handler that does nothing until it is let go."""

    def __init__(self):
        self.go = threading.Event()

    def process(self, works, offsets=None):
        self.go.wait(60)
        return Outcome(effects=len(works))


@pytest.fixture
def topic(kafka_bootstrap):
    name = f"liveness-{secrets.token_hex(6)}"
    with KafkaAdminClient(bootstrap_servers=kafka_bootstrap) as admin:
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})
    with KafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
        for number in range(EVENTS):
            # One by one: the embedded broker counts a batch as one record when asked for the end.
            producer.send(name, value=b"%d" % number).get(30)
    return name


def test_a_worker_that_hangs_is_not_alive_and_is_again_when_it_goes_on(
    kafka_bootstrap, topic, engine, monkeypatch
):
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.05)
    handler, metrics = Hanging(), WorkerMetrics()

    async def main():
        settings = BrokerSettings(bootstrap=kafka_bootstrap, embedded=True, group=topic)
        intake = Intake(topic, handler, IngestSettings(), metrics)
        app = make_app(settings, {topic: intake}, max_poll_records=10)
        watch = liveness.Liveness(
            {topic: intake}, metrics, HttpSettings(stall_seconds=0.5, ready_lag_events=5)
        )
        seen = [(watch.alive, watch.ready)]
        server = HttpServer(
            host="127.0.0.1",
            port=0,
            probes=watch,
            exposition=metrics.exposition,
            access=Access(engine, "token", lambda: NOW),
            ceilings=PolicyCeilings(),
        )
        tasks = [asyncio.create_task(intake.run())]
        await app.start()
        tasks.append(asyncio.create_task(watch.run(app)))
        try:
            async with asyncio.timeout(90), server, aiohttp.ClientSession() as client:

                async def answers():
                    statuses = []
                    for path in ("healthz", "readyz"):
                        async with client.get(f"http://127.0.0.1:{server.port}/{path}") as answer:
                            statuses.append(answer.status)
                    return tuple(statuses)

                while watch.alive:
                    await asyncio.sleep(0.02)
                seen.append(await answers())
                seen.append(metrics.lag.labels(topic, "0")._value.get())
                handler.go.set()
                while not (watch.alive and watch.ready):
                    await asyncio.sleep(0.02)
                seen.append(await answers())
        finally:
            handler.go.set()
            await app.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return seen

    # Before the group assigned anything: alive, not ready. Then stalled, with all events unsettled; then fine.
    assert asyncio.run(main()) == [(True, False), (503, 503), EVENTS, (200, 200)]
