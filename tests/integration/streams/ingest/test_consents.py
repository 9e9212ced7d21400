"""A wrong clock keeps no consent alive: no grant outlasts the withdrawals after it, and no withdrawal is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from privacy.clock import CLOCK_TOLERANCE
from privacy.consent.tables import ConsentRow
from privacy.storage.session import transaction
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import NOW, consent, interaction

FAR = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(engine):
    return IngestWorld(engine)


def granted(world):
    with transaction(world.engine) as session:
        return [row.granted for row in session.exec(select(ConsentRow))]


@pytest.mark.parametrize("at", [FAR, NOW + CLOCK_TOLERANCE + timedelta(seconds=1)])
def test_a_grant_from_the_future_has_a_letter_and_no_effect(world, at):
    outcome = world.take(world.consents, consent(at=at))
    assert (outcome.effects, outcome.dead_letters) == (0, 1)
    assert world.sender.reasons == ["in_the_future"]
    assert granted(world) == []
    world.take(world.consents, consent(granted=False, offset=1))
    world.take(world.interactions, interaction())
    assert world.sender.reasons == ["in_the_future", "consent_withdrawn"]


def test_a_grant_within_the_tolerance_counts(world):
    assert world.take(world.consents, consent(at=NOW + CLOCK_TOLERANCE)).effects == 1
    assert world.take(world.interactions, interaction()).effects == 1


def test_a_withdrawal_from_the_future_counts_against_every_grant_that_was_believed(world):
    world.take(world.consents, consent(at=NOW + CLOCK_TOLERANCE))
    assert world.take(world.consents, consent(granted=False, at=FAR, offset=1)).effects == 1
    assert granted(world) == [False]


def test_a_user_whose_withdrawal_came_from_the_future_may_grant_again(world):
    world.take(world.consents, consent(granted=False, at=FAR))
    world.now = NOW + CLOCK_TOLERANCE + timedelta(seconds=1)
    world.take(world.consents, consent(at=world.now, offset=1))
    assert granted(world) == [True]
