"""Offsets lie in the transaction of the effects: never ahead of an effect, and never ahead of a letter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from privacy.errors import RewoundError, StorageError
from privacy.storage.session import reading, transaction
from streams.broker.progress import PartitionProgress
from streams.contracts.topics import INTERACTIONS
from streams.errors import BrokerUnavailableError
from streams.ingest.offsets import BatchOffsets
from streams.ingest.tables import ProcessedEventRow
from streams.ingest.work import Work
from streams.storage.consumed_offsets import consumed, move_on, read_from_the_start
from streams.storage.tables import ConsumedOffsetRow
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import consent, interaction


@pytest.fixture
def world(engine):
    world = IngestWorld(engine)
    world.take(world.consents, consent())
    return world


def take(world, *records, final=True):
    """Hand records (offsets from 10 on) to the handler as an intake does."""
    progress = PartitionProgress()
    progress.deliver(10, records[-1].offset)
    offsets = BatchOffsets(INTERACTIONS.name, {0: progress}, {0: records[-1].offset})
    return world.interactions.process([Work(record, 0.0, final) for record in records], offsets)


def stored(world):
    with reading(world.engine) as session:
        return consumed(session).get((INTERACTIONS.name, 0))


def event(number, **changes):
    return interaction(event_id=f"e{number}", offset=number, **changes)


def test_a_batch_of_effects_is_stored_to_its_end(world):
    take(world, event(10), event(11), event(12))
    assert stored(world) == 13


def test_a_batch_with_letters_is_stored_when_the_letters_are_written(world):
    world.sender.away = True
    with pytest.raises(BrokerUnavailableError):
        take(world, event(10), interaction("nobody", event_id="e11", offset=11))
    assert stored(world) == 10  # the effects are there, and the record whose letter is missing comes again
    world.sender.away = False
    take(world, event(10), interaction("nobody", event_id="e11", offset=11))
    assert stored(world) == 10  # the next batch moves it on
    take(world, event(12))
    assert stored(world) == 13


def test_a_partition_of_unreadable_records_alone_is_known_too(world):
    take(world, replace(event(10), value=b"{"))
    assert stored(world) == 10  # not read from its start again with every rebalance


def test_what_waits_is_not_passed(world):
    outcome = take(world, event(10), interaction("late", event_id="e11", offset=11), event(12), final=False)
    assert len(outcome.held) == 1
    assert stored(world) == 11


def test_effects_that_are_rolled_back_take_their_offset_along(world, monkeypatch):
    take(world, event(10))

    def failing(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr("streams.ingest.handler.move_on", failing)
    with pytest.raises(StorageError):
        take(world, event(11))
    monkeypatch.undo()
    assert stored(world) == 11
    assert take(world, event(11)).effects == 1


def test_a_database_that_is_set_back_while_a_worker_runs_takes_no_more_effects(world):
    """Its next batch would store a higher offset, and nobody would see what lies in between."""
    progress = PartitionProgress()

    def batch(*numbers):
        progress.deliver(numbers[0], numbers[-1])
        works = [Work(event(number), 0.0, final=True) for number in numbers]
        offsets = BatchOffsets(INTERACTIONS.name, {0: progress}, {0: numbers[-1]})
        outcome = world.interactions.process(works, offsets)
        progress.settle_through(numbers[-1])
        return outcome.effects

    assert [batch(10), batch(11, 12)] == [1, 2]
    with transaction(world.engine) as session:
        session.exec(update(ConsumedOffsetRow).values(next_offset=11))
    with pytest.raises(RewoundError, match="set back while this worker ran"):
        batch(13)
    assert stored(world) == 11
    assert world.count(ProcessedEventRow) == 1 + 3  # the consent's, and none of the last batch


def test_offsets_only_grow_whoever_comes_late(engine):
    with transaction(engine) as session:
        move_on(session, {("t", 0): 5, ("t", 1): 3})
        move_on(session, {("t", 0): 4})
        move_on(session, {})
        read_from_the_start(session, [("t", 1), ("t", 2)])
    with reading(engine) as session:
        assert consumed(session) == {("t", 0): 5, ("t", 1): 3, ("t", 2): 0}
