"""Fates in slots by age: no event gets two, however the slots turn, and the old ones go as a whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlmodel import select

from privacy.errors import StorageError
from privacy.storage.session import transaction
from streams.ingest.fates import EFFECT, Fate, decide, fates, forget
from streams.ingest.slots import SLOTS, held_slots, turn_slots
from streams.ingest.tables import ProcessedEventRow
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, consent, interaction

KEEP = timedelta(days=30)
LIFE = KEEP / (SLOTS - 2)


def put(engine, digest, fate=EFFECT, *, now=NOW, known=()):
    with transaction(engine) as session:
        decide(session, {digest: fate}, known, now)


def known(engine, *digests):
    with transaction(engine) as session:
        return dict(fates(session, digests))


def turn(engine, now):
    with transaction(engine) as session:
        return turn_slots(session, now, KEEP)


def where(engine):
    with transaction(engine) as session:
        rows = session.exec(select(ProcessedEventRow.event_digest, ProcessedEventRow.slot)).all()
    return {bytes(digest): slot for digest, slot in rows}


@pytest.fixture
def server(engine):
    """A PostgreSQL whose first slot was opened now."""
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one slot")
    with engine.begin() as connection:
        connection.execute(text("UPDATE fate_slots SET opened_at = :now WHERE slot = 0"), {"now": NOW})
    return engine


def test_each_fate_is_known_as_long_as_it_is_kept_and_its_slot_is_emptied_soon_after(server):
    for day in range(80):
        now = NOW + timedelta(days=day)
        turn(server, now)
        put(server, day.to_bytes(2, "big"), now=now)
        there = {int.from_bytes(digest, "big") for digest in where(server)}
        assert there >= set(range(max(0, day - KEEP.days), day + 1))
        assert min(there) >= day - (KEEP + 2 * LIFE).days - 1
        assert known(server, *(one.to_bytes(2, "big") for one in there)).keys() == where(server).keys()
    assert set(where(server).values()) == set(range(SLOTS)) - {(held(server).current + 1) % SLOTS}


def held(engine):
    with transaction(engine) as session:
        return held_slots(session)


def test_a_longer_time_to_keep_fates_forgets_none(server):
    """Where all slots are in use the open one stays open."""
    put(server, b"first")
    for day in range(30):
        turn(server, NOW + timedelta(days=day))
    for day in range(30, 95, 5):
        with transaction(server) as session:
            assert turn_slots(session, NOW + timedelta(days=day), timedelta(days=90)) == 0
    assert known(server, b"first") == {b"first": EFFECT}


def test_an_event_from_before_a_turn_has_no_second_effect_after_it(server):
    world = IngestWorld(server)
    world.take(world.consents, consent())
    assert world.take(world.interactions, interaction()).effects == 1
    turn(server, NOW + LIFE)
    assert held(server).current == 1
    again = world.take(world.interactions, interaction(offset=7), interaction(event_id="e2", offset=8))
    assert (again.effects, again.duplicates) == (1, 1)
    assert sorted(where(server).values()) == [0, 0, 1]


def test_a_refusal_that_was_judged_anew_is_kept_from_then_on(engine):
    refused = Fate("topic/0/1", "consent_missing user_id: no consent is known")
    put(engine, b"one", refused)
    later = NOW + LIFE
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("UPDATE fate_slots SET opened_at = :now WHERE slot = 0"), {"now": NOW})
        turn(engine, later)
    assert known(engine, b"one") == {b"one": refused}
    put(engine, b"one", now=later, known=[b"one"])
    with transaction(engine) as session:
        (row,) = session.exec(select(ProcessedEventRow))
    assert (row.processed_at, row.refusal, row.slot) == (later, None, held(engine).current)


def test_who_turns_the_slots_waits_for_a_batch_but_not_for_long(server):
    put(server, b"one")
    with transaction(server) as batch:
        assert fates(batch, [b"one"]) == {b"one": EFFECT}
        with pytest.raises(StorageError):
            turn(server, NOW + LIFE)
        with ThreadPoolExecutor(1) as pool:  # while it waits, others do too, and then write to the new slot
            turning = pool.submit(turn, server, NOW + LIFE)
            decide(batch, {b"two": EFFECT}, (), NOW)
            batch.commit()
            turning.result(30)
    put(server, b"three")
    assert where(server) == {b"one": 0, b"two": 0, b"three": 1}


def test_two_batches_that_decide_on_one_event_at_once_are_kept_apart(server):
    with transaction(server) as first:
        decide(first, {b"one": EFFECT}, (), NOW)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(put, server, b"one", Fate("topic/0/1", "x y"))
            first.commit()
            with pytest.raises(StorageError):
                second.result(30)
    assert known(server, b"one") == {b"one": EFFECT}


def test_sqlite_forgets_the_oldest_first_and_few_at_once(engine):
    if engine.dialect.name == "postgresql":
        pytest.skip("PostgreSQL empties whole slots")
    for age in (40, 35, 31, 29):
        put(engine, bytes([age]), now=NOW - timedelta(days=age))
    steps = []
    while not steps or steps[-1] == 2:
        with transaction(engine) as session:
            steps.append(forget(session, NOW, KEEP, most=2))
    assert steps == [2, 1]
    assert known(engine, *map(bytes, ([40], [35], [31], [29]))) == {bytes([29]): EFFECT}
