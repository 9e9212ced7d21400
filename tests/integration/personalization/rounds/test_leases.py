"""A lease is renewed while its holder lives, and its loss is noticed by the holder."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs

from personalization.rounds import leases
from personalization.rounds.leases import LeaseKeeper
from personalization.rounds.queries import lease_round
from personalization.rounds.tables import RoundRow
from privacy.errors import PolicyError
from tests.fakes.training import Workshop

MINUTE, SHORT = timedelta(minutes=1), timedelta(milliseconds=30)


class KilledError(BaseException):
    """The thread ends here: nothing catches this."""


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


def test_what_nobody_foresaw_does_not_end_renewal(shop, monkeypatch):
    """A pool that hands out no connection, for one: it may have one the next time."""
    lease, errors = (
        take(shop, "one"),
        [PoolTimeoutError("what a user wrote"), ValueError("what a user wrote")],
    )
    renewed, honest = threading.Event(), leases.renew_lease

    def renew(*arguments):
        if errors:
            raise errors.pop()
        honest(*arguments)
        renewed.set()

    monkeypatch.setattr(leases, "renew_lease", renew)
    with capture_logs() as logs, LeaseKeeper(shop.engine, shop.clock, [lease], SHORT) as keeper:
        assert renewed.wait(60)
        assert not keeper.lost(lease)
    assert [(one["event"], one["error"]) for one in logs] == [
        ("lease_not_renewed", "ValueError"),
        ("lease_not_renewed", "TimeoutError"),
    ]
    assert "a user wrote" not in str(logs)


def test_a_lease_that_cannot_be_renewed_is_lost_at_its_end_and_by_an_error_that_stays_at_once(
    shop, monkeypatch
):
    lease, error = take(shop, "one"), ValueError("what a user wrote")

    def refuse(*_arguments):
        raise error

    monkeypatch.setattr(leases, "renew_lease", refuse)
    keeper = LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE)
    keeper.renew()
    assert not keeper.lost(lease)
    error = PolicyError("it never will")
    keeper.renew()
    assert keeper.lost(lease)


def test_a_lease_is_lost_at_its_end_whatever_became_of_who_renews_it(shop):
    """A renewal that hangs says nothing, and from the end on another trainer may have the round."""
    lease = take(shop, "one")
    keeper = LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE)  # whose thread never ran
    shop.clock.advance(seconds=59)
    assert not keeper.lost(lease)
    shop.clock.advance(seconds=1)
    with capture_logs() as logs:
        assert keeper.lost(lease)
        assert keeper.lost(lease)
    assert [(one["event"], one["round_id"]) for one in logs] == [("lease_lost", lease.round_id)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_nobody_renews_any_more_every_lease_is_lost_at_once(shop, monkeypatch):
    lease = take(shop, "one")
    keeper = LeaseKeeper(shop.engine, shop.clock, [lease], SHORT)

    def end():
        raise KilledError

    monkeypatch.setattr(keeper, "renew", end)
    with capture_logs() as logs, keeper:
        keeper._thread.join(60)
        assert keeper.lost(lease)
    assert [one["event"] for one in logs] == ["lease_lost"]


def test_a_dropped_lease_is_neither_renewed_nor_lost(shop):
    lease = take(shop, "one")
    with LeaseKeeper(shop.engine, shop.clock, [lease], MINUTE) as keeper:
        keeper.drop(lease)
        shop.clock.advance(seconds=61)
        keeper.renew()
        assert not keeper.lost(lease)
    with shop.session() as session:
        assert session.get(RoundRow, lease.round_id).lease_expires_at == lease.expires_at


def test_a_renewal_that_hangs_does_not_keep_a_trainer_from_leaving(shop, monkeypatch):
    lease, began, go_on = take(shop, "one"), threading.Event(), threading.Event()

    def hang(*_):
        began.set()
        go_on.wait(60)

    monkeypatch.setattr(leases, "renew_lease", hang)
    monkeypatch.setattr(leases, "LONGEST_JOIN_SECONDS", 0.1)
    with LeaseKeeper(shop.engine, shop.clock, [lease], SHORT) as keeper:
        assert began.wait(30)
    assert keeper._thread.is_alive()  # the work is left, and what hangs ends with the process
    go_on.set()
    keeper._thread.join(30)
    assert not keeper._thread.is_alive()
