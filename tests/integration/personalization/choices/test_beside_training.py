"""A choice and a release want the same budget: whoever reserves first has it, and the other is refused and says so."""

from __future__ import annotations

import pytest

from personalization.choices.values import ChoiceOutcome
from personalization.registry.announcements import AdapterEventKind
from personalization.rounds.queries import list_rounds
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.storage.session import transaction
from tests.fakes.choosing import ChoosingWorld
from tests.fakes.training import Workshop

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class PublicClock:
    def __init__(self, world):
        self.world = world

    def now(self):
        return self.world.now

    __call__ = now


@pytest.fixture
def both(engine, tmp_path):
    """A tenant whose budget has room for one release and no more, with a choice that was asked for and a round due."""
    world = ChoosingWorld(
        engine, users=2, planned_releases=1, lifetime_epsilon=8.0, minimum_cohort=20, steps=4
    )
    world.answer(1)
    workshop = Workshop(engine, PublicClock(world), tmp_path)
    workshop.keyring = world.keyring
    workshop.open_round()
    _, forecast = world.ask(percent=0)
    assert (forecast.releases_before, forecast.releases_after) == (1, 0)
    return world, workshop


def charged(world):
    with transaction(world.engine) as session:
        period = list_rounds(session, tenant_id="acme")[0].period_index
        return world.ledger.spend(session, "acme", period)


def told(workshop):
    return [(one.kind, one.reason) for one in workshop.events.committed]


def test_a_release_that_reserves_first_has_the_budget_and_the_choice_is_declined_uncharged(both):
    world, workshop = both
    assert workshop.process().run_once() == 1
    before = charged(world)
    assert world.tick() == [ChoiceOutcome.BUDGET_EXHAUSTED]
    assert [(row.state, row.reservation_id) for row in world.rows()] == [("declined", None)]
    assert world.voting.jobs == []
    assert charged(world) == before
    assert before.releases == 1


def test_a_choice_that_reserves_first_has_it_and_the_round_is_declined_unread_and_says_why(both):
    world, workshop = both
    assert world.tick() == [ChoiceOutcome.CHOSEN]
    before = charged(world)
    workshop.process().run_once()
    with transaction(world.engine) as session:
        (row,) = list_rounds(session, tenant_id="acme")
    assert (row.outcome_code, row.reservation_id) == ("budget_exhausted", None)
    assert workshop.signals.reads == 0
    ((kind, reason),) = told(workshop)
    assert kind is AdapterEventKind.DECLINED
    assert "admits no further release" in reason
    assert charged(world) == before
    assert (before.releases, before.reservations) == (0, {"committed": 1})
    assert verify_export(list(export_ledger(world.engine, None)), registered=frozenset).ok
