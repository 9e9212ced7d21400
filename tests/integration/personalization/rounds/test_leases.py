"""A lease is renewed while its holder lives, and its loss is noticed by the holder."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from personalization.rounds.leases import LeaseKeeper
from personalization.rounds.queries import lease_round
from personalization.rounds.tables import RoundRow
from tests.fakes.training import Workshop

MINUTE = timedelta(minutes=1)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    shop.open_round()
    return shop


def take(shop, owner):
    with shop.session() as session:
        return lease_round(session, owner, shop.clock.now(), MINUTE)


def test_a_renewed_lease_outlives_its_first_length(shop):
    lease = take(shop, "one")
    keeper = LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE)
    for _ in range(4):
        shop.clock.advance(seconds=40)
        keeper.renew()
    assert not keeper.lost(lease)
    assert take(shop, "two") is None


def test_a_lease_that_another_took_is_lost(shop):
    lease = take(shop, "one")
    keeper = LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE)
    shop.clock.advance(seconds=61)
    assert take(shop, "two").epoch == 2
    keeper.renew()
    assert keeper.lost(lease)


def test_a_database_that_is_away_loses_the_lease_only_at_its_end(shop):
    lease = take(shop, "one")
    keeper = LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE)

    def refuse(_connection):
        raise OperationalError("begin", {}, Exception("gone"))

    event.listen(shop.engine, "begin", refuse, insert=True)
    shop.clock.advance(seconds=40)
    keeper.renew()
    assert not keeper.lost(lease)
    shop.clock.advance(seconds=21)
    keeper.renew()
    event.remove(shop.engine, "begin", refuse)
    assert keeper.lost(lease)


def test_a_dropped_lease_is_neither_renewed_nor_lost(shop):
    lease = take(shop, "one")
    with LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE) as keeper:
        keeper.drop(lease)
        shop.clock.advance(seconds=61)
        keeper.renew()
        assert not keeper.lost(lease)
    with shop.session() as session:
        assert session.get(RoundRow, lease.round_id).lease_expires_at == lease.expires_at
