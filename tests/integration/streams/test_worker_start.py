"""What a worker checks before it joins its group."""

import asyncio

import pytest

from privacy.errors import KeyUnavailableError
from privacy.keyring import Keyring, new_master_key
from privacy.services import policies
from privacy.storage.session import transaction
from streams import bootstrap
from streams.settings import Settings
from streams.worker import Worker
from tests.fakes.stream_records import NOW


def worker_for(database_url, master_key):
    settings = Settings(
        master_key=master_key,
        database={"url": database_url},
        broker={"bootstrap": "127.0.0.1:1"},  # nobody listens there
        http={"enabled": False},
    )
    return bootstrap.build(settings)


def test_another_master_key_is_refused_before_anything_is_read(database_url, engine):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="ann", now=NOW)
        Keyring(new_master_key()).tenant_keys(session, "acme", now=NOW)
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
    finally:
        services.close()
