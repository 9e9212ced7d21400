"""What costs too much for a budget is dropped in order; measured costs decide, and what got faster is found."""

from __future__ import annotations

import math

import pytest

from streams.client.routing import Lever
from streams.gateway.budgeted import FEWEST, TRIED_EVERY, LatencyBudgets

WANTED = frozenset({Lever.ADAPTER, Lever.TEMPLATE, Lever.CONSTRAINT})


def budgets(limit=100.0):
    told = []
    return LatencyBudgets({"acme": limit}, told.append), told


def measured(one, kept, milliseconds, *, times=FEWEST, stream=False, tenant="acme"):
    for _ in range(times):
        one.observe(tenant, kept, milliseconds / 1e3, stream=stream)


def test_levers_are_dropped_by_what_they_were_measured_to_cost():
    one, told = budgets()
    measured(one, (), 50)
    measured(one, {Lever.ADAPTER}, 60)
    measured(one, WANTED, 150)
    fit = one.fit("acme", WANTED, stream=False)
    assert fit.dropped == (Lever.CONSTRAINT,)
    assert (fit.kept, fit.within) == ((Lever.TEMPLATE, Lever.ADAPTER), True)
    assert told == ["constraint"]
    assert 0.08 < one.quantile(Lever.CONSTRAINT, 0.5, stream=False) < 0.13
    assert math.isnan(one.quantile(Lever.CONSTRAINT, 0.5, stream=True))


def test_a_tenant_without_a_budget_is_never_cut_and_streams_are_measured_apart():
    one, told = budgets()
    measured(one, (), 50)
    measured(one, WANTED, 900)
    assert one.fit("globex", WANTED, stream=False).kept == one.fit("acme", WANTED, stream=True).kept
    assert told == []


def test_what_another_tenants_answers_take_drops_nothing():
    told = []
    one = LatencyBudgets({"acme": 100.0, "globex": 100.0}, told.append)
    for tenant in ("globex", "nobody with a budget"):
        measured(one, (), 90, tenant=tenant)
        measured(one, WANTED, 5_000, tenant=tenant)
    measured(one, (), 20)
    measured(one, WANTED, 30)
    assert one.fit("acme", WANTED, stream=False).dropped == ()
    assert one.fit("globex", WANTED, stream=False).dropped == (Lever.CONSTRAINT,)
    assert one.quantile(Lever.CONSTRAINT, 0.99, stream=False) > 4, "metrics are of all together"
    for number in range(1_000):
        one.observe(f"tenant {number}", WANTED, 1.0, stream=False)
    assert set(one._times) == {"acme", "globex"}, "the memory is bounded by the setting"


def test_an_engine_that_is_late_by_itself_is_told_of():
    one, told = budgets(20.0)
    measured(one, (), 50)
    assert not one.fit("acme", (), stream=False).within
    assert told == ["over"]


def test_nothing_is_dropped_for_fewer_times_than_tell():
    one, _ = budgets()
    measured(one, WANTED, 900, times=FEWEST - 1)
    assert one.fit("acme", WANTED, stream=False).dropped == ()


def test_before_plain_answers_were_measured_a_lever_holds_the_engines_time_and_is_judged_anew_after_it():
    one, _ = budgets()
    measured(one, {Lever.ADAPTER}, 150)
    assert one.fit("acme", {Lever.ADAPTER}, stream=False).dropped == (Lever.ADAPTER,)
    measured(one, (), 70)
    assert one.fit("acme", {Lever.ADAPTER}, stream=False).dropped == ()
    measured(one, {Lever.ADAPTER}, 75)
    assert one.fit("acme", {Lever.ADAPTER}, stream=False).dropped == ()


def test_one_request_in_many_is_tried_with_everything():
    one, _ = budgets()
    measured(one, (), 50)
    measured(one, WANTED, 900)
    cut = [bool(one.fit("acme", WANTED, stream=False).dropped) for _ in range(2 * TRIED_EVERY)]
    assert cut.count(False) == 2


def test_the_memory_gets_the_room_that_the_others_leave_and_the_rest_fits_into_what_it_left():
    one, told = budgets(200.0)
    wanted = WANTED | {Lever.RETRIEVAL}
    measured(one, (), 50)
    measured(one, {Lever.ADAPTER}, 90)
    first = one.fit("acme", wanted, stream=False, spent=0.01)
    room = one.room("acme", first, Lever.RETRIEVAL, stream=False)
    assert first.dropped == ()
    assert 0.06 < room < 0.12, "200 ms without 10 that passed, about 60 of the engine and 50 of the adapter"
    measured(one, {Lever.RETRIEVAL}, 70)
    again = one.fit("acme", wanted, stream=False, spent=0.01)
    assert one.room("acme", again, Lever.RETRIEVAL, stream=False) == pytest.approx(room), (
        "what it takes is its own"
    )
    rest = one.fit_rest("acme", first, WANTED, stream=False, spent=0.18)
    assert (rest.kept, rest.dropped) == ((Lever.CONSTRAINT, Lever.TEMPLATE), (Lever.ADAPTER,))
    assert told == ["adapter", "over"], "the engine alone is late by now"


def test_a_memory_that_was_given_up_is_not_waited_for_again_but_when_it_is_tried():
    one, told = budgets(100.0)
    measured(one, (), 50)
    for _ in range(FEWEST):
        fit = one.fit("acme", {Lever.RETRIEVAL}, stream=False)
        assert fit.kept == (Lever.RETRIEVAL,)
        one.gave_up(
            "acme", Lever.RETRIEVAL, one.room("acme", fit, Lever.RETRIEVAL, stream=False), stream=False
        )
        measured(one, (), 50, times=1)
    fits = [one.fit("acme", {Lever.RETRIEVAL}, stream=False) for _ in range(TRIED_EVERY)]
    tried = [fit for fit in fits if fit.kept]
    assert len(tried) == 1
    assert one.room("acme", tried[0], Lever.RETRIEVAL, stream=False) is None, (
        "it is waited for as without a budget"
    )
    assert one.fit_rest("acme", tried[0], WANTED, stream=False, spent=5.0) == tried[0]
    assert told.count("retrieval") == FEWEST + TRIED_EVERY - 1
    free = one.fit("globex", {Lever.RETRIEVAL}, stream=False)
    assert one.room("globex", free, Lever.RETRIEVAL, stream=False) is None
