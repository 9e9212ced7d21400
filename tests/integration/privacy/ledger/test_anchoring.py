"""A ledger that was set back forfeits what it has lost, by what is anchored of it alone, and still verifies."""

from __future__ import annotations

import pytest

from privacy.accounting.composition import best_epsilon, total_curve
from privacy.accounting.curve import ORDERS
from privacy.ledger import ReservationState
from privacy.ledger.accounts import curve_in, filter_of
from privacy.ledger.anchoring import forfeit_lost, ledger_marks, missing_entries
from privacy.ledger.export import export_ledger
from privacy.ledger.tables import AccountRow, ReservationRow
from privacy.ledger.verify import verify_export
from privacy.policy import versions as policies
from privacy.reports.budgets import budget_plan
from privacy.reports.burn_down import burn_down
from privacy.storage.session import transaction
from tests.fakes.anchored import Backup
from tests.integration.privacy.ledger.test_populations import ROUND, People


@pytest.fixture
def world(engine, database_url, clock):
    """Tenants, and what puts their database back to an earlier state."""
    people, made = People(engine, clock), []

    class World:
        pass

    world = World()
    world.people = people

    def backup():
        engine.dispose()
        made.append(Backup(database_url))

    def put_back():
        engine.dispose()
        made[-1].put_back()

    world.backup, world.put_back = backup, put_back
    yield world
    engine.dispose()
    for one in made:
        one.drop()


def marks(world, *names):
    with transaction(world.people.engine) as session:
        return ledger_marks(session, names)


def forfeit(world, name, mark, number=1):
    with transaction(world.people.engine) as session:
        return forfeit_lost(
            session, world.people.ledger, name, mark, timeline=number, now=world.people.clock.now()
        )


def spent(world, account_id):
    with transaction(world.people.engine) as session:
        row = session.get(AccountRow, account_id)
        return None if row is None else curve_in(row)


def verified(world, **options):
    return verify_export(list(export_ledger(world.people.engine)), **options).findings


def test_exactly_what_was_lost_is_charged_and_the_budget_is_not_rewound(world):
    people = world.people
    people.tenant("acme")
    for _ in range(3):
        people.run("acme")
    world.backup()
    room = 0
    while people.run("acme"):
        room += 1
    assert room > 3
    mark = marks(world, "acme")["acme"]
    before = spent(world, "lifetime:acme")
    world.put_back()
    assert spent(world, "lifetime:acme") != before
    charged = forfeit(world, "acme", mark)
    assert "lifetime:acme" in charged
    assert spent(world, "lifetime:acme") == before
    assert people.run("acme") is None  # nothing was given back
    assert verified(world) == []
    # The anchored head is known to the chain though its entry is lost, so a kept head still verifies.
    assert verified(world, expected_heads={"acme": mark.digest}) == []
    with transaction(people.engine) as session:
        assert missing_entries(session, [("acme", mark.sequence, mark.digest)]) == {"acme"}
    again = forfeit(world, "acme", mark, 2)  # a second time there is nothing left to charge
    assert again == ()
    assert verified(world) == []


def test_what_is_open_in_the_backup_is_never_run_again(world):
    people = world.people
    people.tenant("acme")
    reserved, started = people.run("acme"), people.run("acme")
    with transaction(people.engine) as session:
        people.ledger.start(session, started, 1)
    world.backup()
    with transaction(people.engine) as session:
        people.ledger.start(session, reserved, 1)
    mark = marks(world, "acme")["acme"]
    before = spent(world, "lifetime:acme")
    world.put_back()
    forfeit(world, "acme", mark)
    with transaction(people.engine) as session:
        states = {session.get(ReservationRow, one).state for one in (reserved, started)}
        assert states == {ReservationState.FORFEITED.value}
    assert spent(world, "lifetime:acme") == before
    assert verified(world) == []


def test_a_reservation_that_was_released_since_stays_charged(world):
    people = world.people
    people.tenant("acme")
    reserved = people.run("acme")
    world.backup()
    with transaction(people.engine) as session:
        people.ledger.release(session, reserved, 1)
    people.run("acme")
    mark = marks(world, "acme")["acme"]
    world.put_back()
    forfeit(world, "acme", mark)
    assert all(
        one >= other
        for one, other in zip(
            spent(world, "lifetime:acme").values, mark.accounts[0].spent.values, strict=True
        )
    )
    assert verified(world) == []


def test_a_tenant_and_its_population_that_the_backup_lacks_stay_charged(world):
    people = world.people
    people.tenant("first", population="staff")
    people.run("first")
    world.backup()
    people.tenant("second", population="staff")
    for _ in range(3):
        people.run("second")
    people.run("first")
    held = marks(world, "first", "second")
    staff, second = spent(world, "population:staff"), spent(world, "lifetime:second")
    world.put_back()
    assert spent(world, "lifetime:second") is None
    for name in ("first", "second"):
        forfeit(world, name, held[name])
    assert spent(world, "lifetime:second") == second
    after = spent(world, "population:staff")
    assert all(one >= other for one, other in zip(after.values, staff.values, strict=True))
    assert verified(world) == []
    people.tenant("second", population="staff")  # registered again, it goes on where it was
    people.run("second")
    assert spent(world, "lifetime:second").values > second.values
    assert verified(world) == []


def test_what_is_left_of_closed_periods_is_forfeited(world):
    people = world.people
    people.tenant("acme")
    for _ in range(5):  # each in a period of its own
        people.run("acme")
    world.backup()
    people.run("acme")
    mark = marks(world, "acme")["acme"]
    assert sorted(one.period_index for one in mark.accounts if one.period_index is not None) == [4, 5, 6]
    world.put_back()
    charged = forfeit(world, "acme", mark)
    assert {"period:acme:1", "period:acme:2", "period:acme:3", "period:acme:6"} <= set(charged)
    assert {"period:acme:4", "period:acme:5"}.isdisjoint(charged)
    with transaction(people.engine) as session:
        row = session.get(AccountRow, "period:acme:2")
        limits = filter_of(row)
        assert all(curve_in(row).at(order) == limits.budget(order) for order in limits.orders)
    assert len(spent(world, "lifetime:acme").values) == len(ORDERS)
    assert verified(world) == []


def test_the_burn_down_shows_what_was_forfeited(world):
    people = world.people
    people.tenant("acme")
    people.run("acme")
    world.backup()
    people.run("acme")
    mark = marks(world, "acme")["acme"]
    world.put_back()
    forfeit(world, "acme", mark)
    now = people.clock.now()
    with transaction(people.engine) as session:
        policy = policies.current_policy(session, "acme").policy
        plan = budget_plan(session, "acme", now=now)[0]
        shown = burn_down(session, "acme", policy, release=total_curve(ROUND), plan=plan, now=now)
    assert shown.past[-1][1] == pytest.approx(best_epsilon(spent(world, "lifetime:acme"), shown.delta)[0])
