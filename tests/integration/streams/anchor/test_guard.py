"""The guard over a real database: what lies below the anchor is refused, whatever part of it went back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from sqlmodel import func, select

from privacy.anchor.due import mark_due
from privacy.anchor.tables import AnchorDueRow
from privacy.errors import AnchorUnavailableError, RewoundError, StorageError
from privacy.ledger.tables import LedgerEntryRow
from privacy.storage.session import open_engine, transaction
from privacy.storage.subjects import Subject
from streams.anchor.marks import tenants_held
from streams.client.testing import InMemoryBroker
from streams.contracts.codec import Record
from streams.contracts.topics import ANCHOR
from streams.storage.consumed_offsets import move_on
from tests.fakes.anchored import Backup, guard_of
from tests.fakes.training import Workshop, outbox_events


@pytest.fixture
def broker():
    return InMemoryBroker()


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path, events=outbox_events())
    shop.add_tenant()
    return shop


@pytest.fixture
def backup(engine, database_url):
    """Makes backups; the engine's connections are closed around each."""
    made = []

    def make():
        engine.dispose()
        made.append(Backup(database_url))
        return made[-1]

    yield make
    engine.dispose()
    for one in made:
        one.drop()


def release(shop, guard):
    """One whole round over the anchor."""
    shop.open_round()
    shop.process(protocol=shop.protocol(anchor=guard)).run_once()


def entries(engine):
    with transaction(engine) as session:
        return session.exec(select(func.count()).select_from(LedgerEntryRow)).one()


def due(engine):
    with transaction(engine) as session:
        return session.exec(select(func.count()).select_from(AnchorDueRow)).one()


def anchored(guard):
    guard.refresh()
    return guard.tenants["acme"]


def test_what_moved_is_anchored_once_and_by_any_process(engine, clock, broker, shop):
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    assert due(engine) > 0
    assert guard.advance() > 0
    assert due(engine) == 0
    written = len(broker.records(ANCHOR.name))
    assert guard.advance() == 0
    assert len(broker.records(ANCHOR.name)) == written
    other = guard_of(engine, broker, clock=clock)
    other.require_newest()
    with transaction(engine) as session:
        assert anchored(other) == tenants_held(session, "g", ["acme"], 0)["acme"]
    assert anchored(other).ledger.sequence == entries(engine)
    assert anchored(other).lines[0].last_version == 1


def test_a_round_is_anchored_before_it_reads(engine, clock, broker, shop):
    guard = guard_of(engine, broker, clock=clock)
    seen = []
    load = shop.signals.load

    def looked(*arguments, **named):
        fresh = guard_of(engine, broker, clock=clock)
        seen.append(anchored(fresh).ledger)
        return load(*arguments, **named)

    shop.signals.load = looked
    release(shop, guard)
    (ledger,) = seen
    assert ledger.sequence >= 3  # two accounts and the reservation
    lifetime = next(one for one in ledger.accounts if one.account_id == "lifetime:acme")
    assert max(lifetime.pico_nats) > 0


def test_an_anchor_that_does_not_answer_lets_nothing_be_read_and_costs_nothing(engine, clock, broker, shop):
    guard = guard_of(engine, broker, clock=clock)
    guard.secure("acme")
    shop.open_round()
    protocol, secure = shop.protocol(anchor=guard), guard.secure

    def away(tenant_id):
        broker.set_reachable(False)
        secure(tenant_id)

    guard.secure = away
    with pytest.raises(AnchorUnavailableError):
        shop.process(protocol=protocol).run_once()
    assert shop.signals.reads == 0
    broker.set_reachable(True)
    guard.secure = secure
    clock.advance(seconds=61)
    shop.process("second", protocol=protocol).run_once()
    assert shop.signals.reads == 1
    with transaction(engine) as session:
        spent = shop.ledger.spend(session, "acme", 0)
    assert spent.reservations == {"committed": 1}


@pytest.mark.parametrize("moment", ["before", "reserved"])
def test_a_database_that_was_set_back_spends_nothing(engine, clock, broker, shop, backup, moment):
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    if moment == "before":
        kept = backup()
        release(shop, guard)
    else:  # between reservation and start
        shop.open_round()
        made, secure = [], guard.secure

        def halfway(tenant_id):
            secure(tenant_id)
            if not made:
                made.append(backup())

        guard.secure = halfway
        shop.process(protocol=shop.protocol(anchor=guard)).run_once()
        guard.secure = secure
        (kept,) = made
    guard.advance()
    reads = shop.signals.reads
    engine.dispose()
    kept.put_back()
    clock.advance(seconds=61)
    before = entries(engine)
    for one in (guard, guard_of(engine, broker, clock=clock)):  # a running process and a new one
        with pytest.raises(RewoundError, match="discreet restore"):
            one.require_newest()
        if moment == "before" and one is guard:
            shop.open_round()
        with pytest.raises(RewoundError, match="its ledger ends at entry"):
            shop.process(protocol=shop.protocol(anchor=one)).run_once()
        clock.advance(seconds=61)
    assert shop.signals.reads == reads
    assert entries(engine) == before


def test_a_chain_that_grew_past_the_anchor_on_another_way_is_noticed(engine, clock, broker, shop, backup):
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    kept = backup()
    release(shop, guard)
    guard.advance()
    engine.dispose()
    kept.put_back()
    for _ in range(2):  # over no anchor at all
        shop.open_round()
        shop.process("two").run_once()
    fresh = guard_of(engine, broker, clock=clock)
    with pytest.raises(RewoundError, match="does not hold the entry"):
        fresh.check("acme")


def test_consumed_offsets_that_went_back_are_noticed(engine, clock, broker, shop, backup):
    guard = guard_of(engine, broker, clock=clock)
    with transaction(engine) as session:
        move_on(session, {("t", 0): 5})
    guard.advance()
    kept = backup()
    with transaction(engine) as session:
        move_on(session, {("t", 0): 9, ("t", 1): 3})
        move_on(session, {("t", 0): 7})
    guard.advance()
    assert [one.next_offset for one in guard.offsets.offsets] == [9, 3]
    engine.dispose()
    kept.put_back()
    for one in (guard, guard_of(engine, broker, clock=clock)):
        with pytest.raises(RewoundError, match="partition 0 of t was consumed up to 5, anchored is 9"):
            one.advance()
        with pytest.raises(RewoundError):
            one.require_newest()


def test_records_of_others_and_stale_ones_count_for_nothing(engine, clock, broker, shop):
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    guard.advance()
    old = [record for record in broker.records(ANCHOR.name) if record.key == b"g/tenant/acme"][-1]
    release(shop, guard)
    guard.advance()
    newest = anchored(guard_of(engine, broker, clock=clock))
    broker.append(Record(ANCHOR.name, old.key, old.value, list(old.headers)))  # a delayed writer, a replay
    broker.append(Record(ANCHOR.name, old.key, old.value.replace(b"acme", b"evil"), list(old.headers)))
    broker.append(Record(ANCHOR.name, b"other/tenant/acme", b"{", []))  # another installation's
    fresh = guard_of(engine, broker, clock=clock)
    fresh.require_newest()
    assert anchored(fresh) == newest
    broker.compact(ANCHOR.name)  # and now the good one is gone
    with pytest.raises(RewoundError, match="not signed by this installation"):
        guard_of(engine, broker, clock=clock).check("acme")


def test_an_anchor_that_was_deleted_is_no_new_anchor(engine, clock, broker, shop):
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    guard.advance()
    broker.create_topic(ANCHOR.name)
    with pytest.raises(RewoundError, match="the anchor holds nothing"):
        guard_of(engine, broker, clock=clock).require_newest()


@pytest.mark.parametrize("asks", ["require_newest", "check", "secure"])
def test_whoever_asks_while_another_anchors_for_the_first_time_does_not_take_the_anchor_for_lost(
    engine, database_url, clock, broker, shop, asks
):
    elsewhere = open_engine(str(database_url), busy_timeout_seconds=0.05)
    neighbour, guard = guard_of(elsewhere, broker, clock=clock), guard_of(engine, broker, clock=clock)
    refresh = guard.refresh
    with transaction(engine) as session:
        mark_due(session, "acme")

    def refresh_just_before_the_neighbour_writes():
        refresh()
        with suppress(StorageError):  # who only looks holds no lock; who writes does, and then SQLite refuses
            neighbour.advance()

    guard.refresh = refresh_just_before_the_neighbour_writes
    asked = getattr(guard, asks)
    asked(*([] if asks == "require_newest" else ["acme"]))
    elsewhere.dispose()
    fresh = guard_of(engine, broker, clock=clock)
    fresh.require_newest()
    assert list(fresh.tenants) == ["acme"]


def test_a_wrong_or_empty_database_is_noticed(engine, clock, broker, shop, tmp_path, sqlite_template):
    from tests.fakes.ingest_world import copied_engine

    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    guard.advance()
    with copied_engine(sqlite_template, tmp_path) as empty:
        with pytest.raises(RewoundError, match="acme: the tenant is not there"):
            guard_of(empty, broker, clock=clock).require_newest()
        guard_of(empty, broker, clock=clock, group="another").require_newest()


def test_what_a_former_key_signed_counts_until_it_is_signed_anew(engine, clock, broker, shop):
    former = bytes(range(1, 33))
    before = guard_of(engine, broker, clock=clock, seed=former)
    release(shop, before)
    user = Subject("acme", "ab" * 32)
    with transaction(engine) as session:
        move_on(session, {("t", 0): 4})
        mark_due(session, "acme", pseudonym=user.pseudonym)
    before.advance()
    with pytest.raises(RewoundError, match="not signed by this installation"):
        guard_of(engine, broker, clock=clock).check("acme")
    with pytest.raises(RewoundError, match="not signed by this installation"):  # nor does a worker start
        guard_of(engine, broker, clock=clock).require_newest()
    guard = guard_of(engine, broker, clock=clock, earlier=[former])
    guard.require_newest()
    assert guard.erased() == [user]
    assert [guard.renew() for _ in range(2)] == [3, 0]
    assert guard_of(engine, broker, clock=clock, earlier=[former]).renew() == 0
    alone = guard_of(engine, broker, clock=clock)
    alone.require_newest()
    assert (alone.tenants, alone.offsets, alone.erased()) == (before.tenants, before.offsets, [user])
