"""An erasure is carried out whatever its sender's clock said; its deadline counts from its arrival at the latest."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlmodel import select

from personalization.signals import keep
from personalization.signals.rows import SignalRow
from privacy.consent.tables import ConsentRow
from privacy.erasure.certificates import deadline
from privacy.erasure.tables import ErasureRow
from privacy.keys.batch_locks import lock_out_batches, numbers
from privacy.storage.session import transaction
from streams.contracts.consent import ConsentPurpose
from streams.contracts.topics import CONSENT, ERASURES
from streams.ingest import consents
from streams.ingest.erasures import ErasureHandler
from streams.outbox.relay import OutboxRelay
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, consent, erasure, interaction


@pytest.mark.parametrize("at", [datetime(2099, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)])
def test_a_request_from_the_future_is_carried_out_and_dated_at_its_arrival(engine, at):
    world = IngestWorld(engine)
    world.take(world.consents, consent())
    world.take(world.interactions, interaction())
    assert world.take(world.erasures, erasure(at=at)).effects == 1
    assert world.count(SignalRow) == 0
    with transaction(engine) as session:
        (row,) = session.exec(select(ErasureRow))
        assert (row.requested_at, row.deadline_at) == (NOW, deadline(NOW))
        assert row.certificate["requested_at"] == NOW.isoformat()


def test_the_answer_of_a_worker_whose_clock_is_ahead_does_not_wait_for_that_hour(engine):
    world = IngestWorld(engine)
    world.take(world.consents, consent())
    world.now = NOW + timedelta(hours=1)
    assert world.take(world.erasures, erasure()).effects == 1
    OutboxRelay(engine, world.sender, batch_rows=10).relay_once(
        NOW
    )  # of another worker, whose clock is right
    assert {record.topic for record in world.sender.sent} == {ERASURES.name, CONSENT.name}


class TestBesideOtherTransactions:
    """An erasure that comes while a batch of the same user is half done neither hangs with it nor misses its rows."""

    @pytest.fixture
    def world(self, engine):
        world = IngestWorld(engine)
        world.take(world.consents, consent())
        world.take(world.interactions, *(interaction(event_id=f"e{n}", offset=n) for n in range(3)))
        return world

    def both(self, world, monkeypatch, place, name, first):
        """Run ``first`` up to its call of ``name``, then an erasure until it waits or ends, then both to their ends."""
        reached, go_on = threading.Event(), threading.Event()
        original = getattr(place, name)

        def halted(*args, **kwargs):
            result = original(*args, **kwargs)
            reached.set()
            assert go_on.wait(30)
            return result

        monkeypatch.setattr(place, name, halted)
        with ThreadPoolExecutor(2) as pool:
            batch = pool.submit(first)
            assert reached.wait(30)
            erased = pool.submit(world.take, world.erasures, erasure())
            wait_until_blocked(world.engine, erased)
            go_on.set()
            assert batch.result(60).dead_letters == 0
            assert erased.result(60).effects == 1

    def test_what_a_batch_drives_out_and_an_erasure_deletes_is_no_deadlock(self, world, monkeypatch):
        more = [interaction(event_id=f"m{n}", offset=10 + n) for n in range(60)]
        self.both(world, monkeypatch, keep, "apply_bound", lambda: world.take(world.interactions, *more))
        assert world.count(SignalRow) == 0

    def test_a_consent_that_was_half_stored_is_deleted_too(self, world, monkeypatch):
        other = consent(purpose=ConsentPurpose.EVALUATION, offset=9)
        self.both(world, monkeypatch, consents, "erased_among", lambda: world.take(world.consents, other))
        assert world.count(ConsentRow) == 0


class TestOfSeveralTenants:
    """An erasure holds up its own tenant alone."""

    @pytest.fixture
    def world(self, engine):
        assert len(numbers(["acme", "globex"])) == 2  # two locks, else the test says nothing
        world = IngestWorld(engine, tenants=("acme", "globex"))
        for name in ("acme", "globex"):  # both have keys from here on
            world.take(world.consents, consent("first", tenant=name))
        return world

    def test_others_go_on_while_an_erasure_is_open_and_its_own_tenant_waits(self, world):
        if world.engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer at a time")
        with transaction(world.engine) as session, ThreadPoolExecutor(2) as pool:
            lock_out_batches(session, ["acme"])
            assert world.take(world.consents, consent(tenant="globex")).effects == 1
            own = pool.submit(world.take, world.consents, consent(tenant="acme"))
            wait_until_blocked(world.engine, own)
            assert not own.done()
            session.commit()
            assert own.result(60).effects == 1

    def test_requests_of_two_tenants_in_two_orders_are_no_deadlock(self, world, monkeypatch):
        """Each transaction stops before its second erasure until the other one had the time to come there too."""
        both = threading.Barrier(2)
        original = ErasureHandler._erase

        def late(self, session, work, now):
            original(self, session, work, now)
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)

        monkeypatch.setattr(ErasureHandler, "_erase", late)
        names = ("acme", "globex")
        with ThreadPoolExecutor(2) as pool:
            taken = [
                pool.submit(
                    world.take,
                    world.erasures,
                    *(erasure(f"u{n}", tenant=name, request_id=f"r{n}", offset=n) for name in order),
                )
                for n, order in enumerate((names, names[::-1]))
            ]
            assert [one.result(60).effects for one in taken] == [2, 2]


def wait_until_blocked(engine, future):
    """Return when ``future`` waits for a lock of the database, or is done; SQLite does not say and gets a moment."""
    deadline = time.monotonic() + (10 if engine.dialect.name == "postgresql" else 0.5)
    while time.monotonic() < deadline and not future.done():
        if engine.dialect.name == "postgresql":
            with engine.connect() as connection:
                waiting = connection.execute(
                    text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                ).scalar_one()
            if waiting:
                return
        time.sleep(0.02)
