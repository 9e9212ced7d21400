"""What a worker checks before it joins its group."""

import asyncio

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from privacy.errors import KeyUnavailableError, RewoundError, StorageError
from privacy.keys.service import new_master_key
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.contracts.topics import ERASURES
from streams.processes import liveness
from streams.processes import wiring as bootstrap
from streams.processes import worker as worker_module
from streams.processes.worker import Worker
from streams.settings import Settings
from streams.storage.consumed_offsets import move_on
from tests.fakes.keys import keyring_of, prepared_store_url, store_url
from tests.fakes.stream_records import NOW


def worker_for(database_url, master_key):
    settings = Settings(
        master_key=master_key,
        database={"url": database_url},
        keys={"url": store_url(database_url)},
        broker={"bootstrap": "127.0.0.1:1"},  # nobody listens there
        http={"enabled": False},
    )
    return bootstrap.build(settings)


def test_another_master_key_is_refused_before_anything_is_read(database_url, engine):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        keyring_of(engine).tenant_keys(session, "acme", now=NOW)
    services = worker_for(database_url, new_master_key())
    try:
        with pytest.raises(KeyUnavailableError):
            asyncio.run(Worker(services).run())
    finally:
        services.close()


def test_a_worker_without_a_broker_waits_and_stops_when_asked(database_url):
    services = worker_for(database_url, new_master_key())

    async def main():
        worker = Worker(services)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(1)
        alive, ready = worker.liveness.alive, worker.liveness.ready
        worker.ask_to_stop()
        await asyncio.wait_for(running, 30)
        return alive, ready

    try:
        assert asyncio.run(main()) == (True, False)
        shown = services.metrics.exposition().decode()
        assert (
            f'discreet_slowed_tenants_total{{topic="{ERASURES.name}"}} 0.0' in shown
        )  # nothing was read yet
    finally:
        services.close()


def test_what_is_missing_is_reported_once_however_often_it_is_tried(database_url, monkeypatch):
    services = worker_for(database_url, new_master_key())
    problems = iter(["no broker answers"] * 5 + ["topics are missing"] * 3 + [None])
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(worker_module.asyncio, "sleep", pause)
    try:
        with capture_logs() as logs:
            asyncio.run(Worker(services)._wait_until_ready("broker", lambda: next(problems)))
    finally:
        services.close()
    assert [(entry["what"], entry["problem"]) for entry in logs] == [
        ("broker", "no broker answers"),
        ("broker", "topics are missing"),
    ]
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_a_database_that_goes_away_during_the_start_is_waited_for(database_url, monkeypatch):
    services = worker_for(database_url, new_master_key())
    failures = [StorageError("the database is away"), StorageError("the database is away")]

    def flaky(engine):
        if failures:
            raise failures.pop()
        return transaction(engine)

    async def main():
        worker = Worker(services)
        monkeypatch.setattr(worker_module, "transaction", flaky)
        monkeypatch.setattr(worker_module, "FIRST_PAUSE_SECONDS", 0.01)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(60):
            while failures:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
        ended = running.done()
        worker.ask_to_stop()
        await asyncio.wait_for(running, 60)
        return ended

    try:
        assert asyncio.run(main()) is False
    finally:
        services.close()


def test_a_database_below_its_anchor_is_waited_for_and_told(database_url, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_ANCHOR__WHERE", "file")
    monkeypatch.setenv("DISCREET_ANCHOR__FILE", str(tmp_path / "anchor"))
    prepared_store_url(database_url)
    services = worker_for(database_url, new_master_key())
    worker = Worker(services)
    try:
        with transaction(engine) as session:
            move_on(session, {("t", 0): 5})
        services.anchor.advance()
        assert worker._anchor_problem() is None
        with transaction(engine) as session:
            session.connection().execute(text("UPDATE consumed_offsets SET next_offset = 4"))
        assert "discreet restore" in worker._anchor_problem()
        # And one that is set back while the worker runs ends it, whatever else its chores are about.
        with pytest.raises(RewoundError, match="partition 0 of t was consumed up to 4"):
            asyncio.run(asyncio.wait_for(worker_module._chores(services), 30))
    finally:
        services.close()


class Waiting:
    """An app whose group never gives it anything: Faust's start does not end then."""

    started, rebalancing, rebalancing_count, rebalances = False, True, 1, 1

    def __init__(self):
        self.run_consumer, self.receivers = self, {"t": None}

    async def start(self):
        await asyncio.Event().wait()

    def assignment(self):
        return set()

    async def highwaters(self, *partitions):
        return dict.fromkeys(partitions, 7)


def test_a_worker_whose_group_gives_it_nothing_says_so_although_it_never_gets_ready(
    database_url, monkeypatch
):
    services = worker_for(database_url, new_master_key())
    monkeypatch.setattr(liveness, "JOINING", 0.001)
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "make_app", lambda *_, **__: Waiting())

    async def at_once(*_):
        return None

    monkeypatch.setattr(Worker, "_wait_until_ready", at_once)

    async def main():
        worker = Worker(services)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            while worker.liveness.alive:
                await asyncio.sleep(0.02)
        worker.ask_to_stop()
        await asyncio.wait_for(running, 30)

    try:
        asyncio.run(main())
    finally:
        services.close()
