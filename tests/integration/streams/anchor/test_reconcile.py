"""Reconciling a backup: withdrawn versions stay withdrawn, names are not used twice, nobody erased comes back."""

from __future__ import annotations

import pytest

from personalization.adapters.manifest import VersionState
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, DesiredChange
from personalization.registry.withdrawal import withdraw_version
from privacy.errors import RewoundError
from privacy.keys.destruction import erased_among, erasure_counts
from privacy.keys.rotation import finish_renaming, rotate_pseudonyms
from privacy.keys.store import open_store
from privacy.ledger import Ledger
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.storage.session import reading, transaction
from streams.anchor.reconcile import reconcile, replay_erasures
from streams.client.testing import InMemoryBroker
from streams.contracts.topics import ANCHOR, ERASED
from streams.storage.consumed_offsets import consumed, move_on
from tests.fakes.anchored import Backup, guard_of
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.keys import keyring_of, store_of, store_url
from tests.fakes.stream_records import NOW, consent, erasure, interaction
from tests.fakes.training import RecordingEvents, Workshop


@pytest.fixture
def broker():
    return InMemoryBroker()


@pytest.fixture
def shop(engine, clock, tmp_path):
    return Workshop(engine, clock, tmp_path)


@pytest.fixture
def backup(engine, database_url):
    made = []

    def make():
        engine.dispose()
        made.append(Backup(database_url))
        return made[-1]

    yield make
    engine.dispose()
    for one in made:
        one.drop()


def put_back(engine, kept):
    engine.dispose()
    kept.put_back()


def act(clock):
    return Act(actor="ann", reason="A backup was put back.", code="restored", now=clock.now())


def restored(engine, broker, clock, events=None, keyring=None, **options):
    keyring = keyring or keyring_of(engine)
    guard = guard_of(engine, broker, clock=clock)
    guard.refresh()
    with transaction(engine) as session:
        replay_erasures(session, keyring, guard.erased(), now=clock.now())
    with transaction(engine) as session:
        return reconcile(
            session,
            guard,
            ledger=Ledger(clock),
            events=events or RecordingEvents(),
            act=act(clock),
            **options,
        )


def release(shop, guard, tenant="acme"):
    shop.open_round(tenant)
    shop.process(protocol=shop.protocol(anchor=guard)).run_once()


def served(engine, line_ref):
    with transaction(engine) as session:
        line = registry.lock_line(session, line_ref)
        current = registry.current_version(session, line)
        return line.epoch, line.last_version, None if current is None else current.served_name


def test_lines_lie_above_the_anchor_and_what_was_withdrawn_stays_so(engine, clock, broker, shop, backup):
    shop.add_tenant()
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    release(shop, guard)
    with transaction(engine) as session:
        first, second = registry.list_versions(session)
    kept = backup()
    with transaction(engine) as session:
        withdraw_version(session, shop.events, second.version_id, act(clock))
    release(shop, guard)
    guard.advance()
    epoch, number, _ = served(engine, first.line_ref)
    put_back(engine, kept)
    assert served(engine, first.line_ref)[2] == second.served_name  # as the backup knows it
    events = RecordingEvents()
    done = restored(engine, broker, clock, events)
    assert done.lines == (first.line_ref,)
    assert done.timeline == 1
    after = served(engine, first.line_ref)
    assert after[0] > epoch
    assert after[1:] == (number, first.served_name)
    with transaction(engine) as session:
        assert registry.find_version(session, second.served_name).state == VersionState.WITHDRAWN.value
    last = events.committed[-1]
    assert (last.kind, last.desired_change, last.epoch) == (
        AdapterEventKind.PROMOTED, DesiredChange.SET, after[0],
    )  # fmt: skip
    assert last.revoked_version_ids == (second.version_id,)
    release(shop, guard_of(engine, broker, clock=clock))
    assert served(engine, first.line_ref)[2].endswith("-v4")  # v3 was somebody else


def test_a_line_that_the_backup_lacks_is_withdrawn_and_goes_on_under_its_name(
    engine, clock, broker, shop, backup
):
    shop.add_tenant()
    guard = guard_of(engine, broker, clock=clock)
    with transaction(engine) as session:
        move_on(session, {("t", 0): 1})
    guard.advance()
    kept = backup()
    release(shop, guard)
    guard.advance()
    (mark,) = guard.tenants["acme"].lines
    put_back(engine, kept)
    events = RecordingEvents()
    restored(engine, broker, clock, events)
    epoch, number, name = served(engine, mark.line_ref)
    assert (number, name) == (1, None)
    assert epoch > mark.epoch
    assert events.committed[-1].desired_change is DesiredChange.CLEAR
    release(shop, guard_of(engine, broker, clock=clock))
    assert served(engine, mark.line_ref)[2].endswith("-v2")


def test_nobody_who_was_erased_comes_back(engine, clock, broker, backup):
    world = IngestWorld(engine)
    guard = guard_of(engine, broker, clock=clock)
    for user in ("zoe", "max"):
        world.take(world.consents, consent(user))
        world.take(world.interactions, interaction(user, event_id=user))
    kept = backup()
    world.take(world.erasures, erasure("zoe"))
    guard.advance()
    broker.compact(ERASED.name)
    (erased,) = guard_of(engine, broker, clock=clock).erased()
    assert "zoe" not in str(broker.records(ERASED.name))
    put_back(engine, kept)
    world.keyring = None
    # A file of keys is not put back with the database, a schema of it is.
    back = 1 if engine.dialect.name == "sqlite" else 2
    assert len(IngestWorld.users(_fresh(world, engine))) == back
    with pytest.raises(RewoundError, match="0 erasures are recorded, anchored are 1"):
        guard_of(engine, broker, clock=clock).require_newest()
    restored(engine, broker, clock, keyring=keyring_of(engine, world.master_key))
    fresh = _fresh(world, engine)
    assert len(fresh.users()) == 1
    with transaction(engine) as session:
        assert erased_among(session, [erased]) == {erased}
        assert erasure_counts(session, ["acme"])["acme"] >= 1
    assert store_of(engine).user_keys([erased]) == {erased: None}
    outcome = fresh.take(fresh.interactions, interaction("zoe", event_id="again", offset=50))
    assert (outcome.effects, outcome.dead_letters) == (0, 1)
    guard_of(engine, broker, clock=clock).require_newest()


def test_who_comes_back_with_a_key_store_of_before_loses_the_key_again(
    engine, clock, broker, backup, database_url
):
    world = IngestWorld(engine)
    guard = guard_of(engine, broker, clock=clock)
    world.take(world.consents, consent("zoe"))
    world.take(world.interactions, interaction("zoe"))
    kept = backup()
    # PostgreSQL: the schema of the keys is in the same backup.
    keys = Backup(store_url(database_url)) if engine.dialect.name == "sqlite" else None
    world.take(world.erasures, erasure("zoe"))
    guard.advance()
    (erased,) = guard.erased()
    put_back(engine, kept)
    if keys is not None:
        keys.put_back()
    assert store_of(engine).user_keys([erased])[erased] is not None
    assert len(_fresh(world, engine).users()) == 1
    restored(engine, broker, clock, keyring=keyring_of(engine, world.master_key))
    assert store_of(engine).user_keys([erased]) == {erased: None}
    assert _fresh(world, engine).users() == ()
    # The database knows of it, the key store does not: the register is enough.
    if keys is not None:
        engine.dispose()
        keys.put_back()
        with transaction(engine) as session:
            keyring = keyring_of(engine, world.master_key)
            assert [replay_erasures(session, keyring, [erased], now=NOW) for _ in range(2)] == [1, 0]
        assert store_of(engine).user_keys([erased]) == {erased: None}


def test_nobody_comes_back_in_a_backup_of_before_a_rotation_of_pseudonyms(
    engine, clock, broker, backup, tmp_path
):
    store = engine.key_store_of_the_test = open_store(f"sqlite:///{tmp_path / 'apart.sqlite3'}")
    store.prepare()
    world = IngestWorld(engine)
    guard = guard_of(engine, broker, clock=clock)
    for user in ("zoe", "max", "ann"):
        world.take(world.consents, consent(user))
        world.take(world.interactions, interaction(user, event_id=user))
    kept = backup()
    world.take(world.erasures, erasure("zoe"))
    guard.advance()
    for _ in range(2):
        rotate_pseudonyms(engine, world.keyring, "acme", actor="ann", now=NOW)
    world.take(world.erasures, erasure("max", request_id="of-max", offset=1))
    guard.advance()
    assert sorted(name.pseudonym[0] in "0123456789abcdef" for name in guard.erased()) == [False, True]
    put_back(engine, kept)
    keyring = keyring_of(engine, world.master_key)
    assert finish_renaming(engine, keyring, actor="ann", now=NOW) == ["acme"]
    assert finish_renaming(engine, keyring, actor="ann", now=NOW) == []
    restored(engine, broker, clock, keyring=keyring)
    fresh = _fresh(world, engine)
    assert len(fresh.users()) == 1
    outcomes = {
        user: fresh.take(fresh.interactions, interaction(user, event_id=f"{user}-again", offset=50)).effects
        for user in ("zoe", "max", "ann")
    }
    assert outcomes == {"zoe": 0, "max": 0, "ann": 1}
    store.engine.dispose()


def _fresh(world, engine):
    """The world as a process that starts now has it: no key of a user is in any cache."""
    from privacy.policy.cache import TenantPolicies
    from streams.ingest.interactions import InteractionHandler
    from streams.ingest.letters import DeadLetterSink

    made = object.__new__(IngestWorld)
    made.engine, made.sender, made.now = engine, world.sender, world.now
    made.keyring = keyring_of(engine, world.master_key)
    made.interactions = InteractionHandler(
        engine=engine,
        letters=DeadLetterSink(world.sender, "workers"),
        clock=lambda: world.now,
        keyring=made.keyring,
        policies=TenantPolicies(0.0),
        max_event_bytes=2048,
        redact=list,
    )
    return made


def test_a_restore_is_the_newest_from_then_on_and_the_old_backups_are_not(
    engine, clock, broker, shop, backup
):
    shop.add_tenant()
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    with transaction(engine) as session:
        move_on(session, {("t", 0): 4})
    guard.advance()
    kept = backup()
    release(shop, guard)
    with transaction(engine) as session:
        move_on(session, {("t", 0): 9, ("t", 1): 2})
    guard.advance()
    spent = shop.ledger.spend
    with transaction(engine) as session:
        before = spent(session, "acme", 0).lifetime_epsilon
    full = backup()
    for number in (1, 2):
        put_back(engine, kept)
        done = restored(engine, broker, clock)
        assert done.timeline == number
        assert "lifetime:acme" in done.charged["acme"]
        with reading(engine) as session:
            assert consumed(session) == {("t", 0): 4, ("t", 1): 0}
            assert spent(session, "acme", 0).lifetime_epsilon == pytest.approx(before)
        guard_of(engine, broker, clock=clock).require_newest()
        guard_of(engine, broker, clock=clock).advance()
    assert verify_export(list(export_ledger(engine))).ok
    for old in (full, kept):
        put_back(engine, old)
        with pytest.raises(RewoundError, match="from before restore 2"):
            guard_of(engine, broker, clock=clock).check("acme")


def test_a_restore_that_is_killed_before_its_commit_has_changed_nothing_that_counts(
    engine, clock, broker, shop, backup
):
    shop.add_tenant()
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    kept = backup()
    release(shop, guard)
    put_back(engine, kept)
    fresh = guard_of(engine, broker, clock=clock)
    fresh.refresh()

    class KilledError(Exception):
        pass

    with pytest.raises(KilledError), transaction(engine) as session:
        reconcile(session, fresh, ledger=Ledger(clock), events=RecordingEvents(), act=act(clock))
        raise KilledError  # the anchor is written, the database is not
    with pytest.raises(RewoundError, match="from before restore 1"):
        guard_of(engine, broker, clock=clock).require_newest()
    assert restored(engine, broker, clock).timeline == 2
    guard_of(engine, broker, clock=clock).require_newest()


def test_a_lost_anchor_is_written_anew_from_the_newest_database(engine, clock, broker, shop):
    shop.add_tenant()
    world = IngestWorld(engine, tenants=("beta",))
    guard = guard_of(engine, broker, clock=clock)
    release(shop, guard)
    world.take(world.consents, consent("zoe", tenant="beta"))
    world.take(world.erasures, erasure("zoe", tenant="beta"))
    guard.advance()
    held, erased = dict(guard.tenants), guard.erased()
    for topic in (ANCHOR, ERASED):
        broker.create_topic(topic.name)
    with pytest.raises(RewoundError, match="--accept-lost-anchor"):
        guard_of(engine, broker, clock=clock).require_newest()
    done = restored(engine, broker, clock, accept_lost_anchor=True)
    assert (done.charged, done.behind) == ({}, {})
    fresh = guard_of(engine, broker, clock=clock)
    fresh.require_newest()
    assert {owner: one.ledger for owner, one in fresh.tenants.items()} == {
        owner: one.ledger for owner, one in held.items()
    }
    assert fresh.erased() == erased
