"""Rounds are opened by the policy and the public clock, once each, and leased to one trainer at a time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from personalization.errors import LeaseLostError, RoundConflictError
from personalization.rounds import queries as rounds
from personalization.rounds.queries import BLOCKED_PAUSE
from personalization.rounds.states import OutcomeCode, RoundState
from privacy.errors import PolicyError, UnknownTenantError
from privacy.policy import versions as policies
from tests.fakes.training import Workshop

WEEK = 7 * 86_400
MINUTE = timedelta(minutes=1)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    start = clock.now() + timedelta(days=1)
    shop.add_tenant(
        schedule={"first_at": start, "every_seconds": WEEK}, domains=["default", "legal"], planned_releases=8
    )
    return shop


def opened(shop):
    with shop.session() as session:
        return len(rounds.open_due_rounds(session, shop.clock.now()))


def close_all(shop):
    with shop.session() as session:
        for row in rounds.list_rounds(session):
            rounds.close_round(
                session, row, RoundState.DECLINED, OutcomeCode.NO_POLICY, "", now=shop.clock.now()
            )


def test_rounds_open_at_their_slot_and_once(shop):
    assert opened(shop) == 0
    shop.clock.advance(days=1)
    assert opened(shop) == 2
    assert opened(shop) == 0
    close_all(shop)
    assert opened(shop) == 0
    shop.clock.advance(days=7)
    assert opened(shop) == 2


def test_missed_slots_are_not_made_up_for(shop):
    shop.clock.advance(days=1 + 7 * 5)
    assert opened(shop) == 2


def test_a_line_with_an_open_round_gets_no_second_one_until_that_is_closed(shop):
    shop.clock.advance(days=1)
    assert opened(shop) == 2
    shop.clock.advance(days=7)
    assert opened(shop) == 0
    close_all(shop)
    shop.clock.advance(seconds=BLOCKED_PAUSE.total_seconds())
    assert opened(shop) == 2


def test_a_domain_that_is_added_gets_the_round_of_the_slot_that_runs(shop):
    shop.clock.advance(days=1)
    assert opened(shop) == 2
    with shop.session() as session:
        domains = {"domains": ["default", "legal", "finance"]}
        policies.set_policy(session, "acme", domains, actor="test", reason="more", now=shop.clock.now())
    assert opened(shop) == 1


def test_of_more_tenants_than_one_look_takes_the_others_are_next(shop):
    schedule = {"first_at": shop.clock.now() + timedelta(days=1), "every_seconds": WEEK}
    for number in range(4):
        shop.add_tenant(f"beta{number}", schedule=schedule)
    shop.clock.advance(days=1)
    looks = []
    for _ in range(4):
        with shop.session() as session:
            looks.append(len(rounds.open_due_rounds(session, shop.clock.now(), most=2)))
    assert looks == [3, 2, 1, 0]  # acme has two lines


def test_a_tenant_without_a_policy_is_never_trained(shop):
    with shop.session() as session:
        policies.register_tenant(session, "bare", actor="test", now=shop.clock.now())
    shop.clock.advance(days=1)
    assert opened(shop) == 2
    with pytest.raises(PolicyError, match="no privacy policy"):
        shop.open_round("bare")
    with pytest.raises(UnknownTenantError):
        shop.open_round("nobody")
    with pytest.raises(PolicyError, match="default, legal"):
        shop.open_round("acme", "finance")


def test_rounds_by_hand_are_numbered_and_refused_while_one_is_open(shop):
    shop.open_round()
    with pytest.raises(RoundConflictError):
        shop.open_round()
    close_all(shop)
    shop.open_round()
    with shop.session() as session:
        assert sorted(row.sequence for row in rounds.list_rounds(session, tenant_id="acme")) == [0, 1]
        assert rounds.list_rounds(session, tenant_id="beta") == []


def test_a_lease_keeps_others_away_until_it_runs_out(shop):
    shop.open_round()
    with shop.session() as session:
        first = rounds.lease_round(session, "one", shop.clock.now(), MINUTE)
    with shop.session() as session:
        assert rounds.lease_round(session, "two", shop.clock.now(), MINUTE) is None
    shop.clock.advance(seconds=40)
    with shop.session() as session:
        rounds.renew_lease(session, first, shop.clock.now(), MINUTE)
    shop.clock.advance(seconds=40)
    with shop.session() as session:
        assert rounds.lease_round(session, "two", shop.clock.now(), MINUTE) is None
    shop.clock.advance(seconds=40)
    with shop.session() as session:
        second = rounds.lease_round(session, "two", shop.clock.now(), MINUTE)
    assert (first.epoch, second.epoch) == (1, 2)
    with pytest.raises(LeaseLostError), shop.session() as session:
        rounds.hold_round(session, first, shop.clock.now())
