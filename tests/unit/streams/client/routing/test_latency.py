"""A budget is kept by dropping levers in the stated order; times are told within a quarter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streams.client.routing.latency import DROP_ORDER, Lever, LeverTimes, choose_levers

COSTS = {
    Lever.RETRIEVAL: 300.0,
    Lever.CONSTRAINT: 20.0,
    Lever.TERMS: 2.0,
    Lever.TEMPLATE: 15.0,
    Lever.ADAPTER: 5.0,
}


def test_every_lever_has_a_place_in_the_order():
    assert set(DROP_ORDER) == set(Lever)
    assert len(DROP_ORDER) == len(Lever)


@pytest.mark.parametrize(
    ("budget", "dropped"),
    [
        (None, []),
        (1000.0, []),
        (145.0, [Lever.RETRIEVAL]),
        (125.0, [Lever.RETRIEVAL, Lever.CONSTRAINT]),
        (120.0, [Lever.RETRIEVAL, Lever.CONSTRAINT, Lever.TERMS]),
        (100.0, list(DROP_ORDER)),
    ],
)
def test_levers_go_in_the_stated_order_until_the_budget_holds(budget, dropped):
    found = choose_levers(budget, set(COSTS), COSTS, engine_ms=100.0)
    assert list(found.dropped) == dropped
    assert found.within
    assert found.expected_ms == 100.0 + sum(COSTS[lever] for lever in found.kept)
    assert set(found.kept) | set(found.dropped) == set(COSTS)


def test_what_has_passed_already_leaves_less_room():
    found = choose_levers(145.0, set(COSTS), COSTS, engine_ms=100.0, spent_ms=20.0)
    assert found.dropped == (Lever.RETRIEVAL, Lever.CONSTRAINT)
    assert (found.expected_ms, found.limit_ms) == (142.0, 145.0)
    assert choose_levers(None, set(COSTS), COSTS, engine_ms=1.0, spent_ms=1e6).dropped == ()


def test_an_engine_that_is_too_slow_by_itself_is_said_to_be():
    found = choose_levers(50.0, set(COSTS), COSTS, engine_ms=100.0)
    assert not found.kept
    assert not found.within


def test_what_was_never_measured_is_tried_and_what_costs_nothing_is_not_dropped():
    found = choose_levers(100.0, {Lever.TEMPLATE, Lever.RETRIEVAL}, {Lever.TEMPLATE: 5.0}, engine_ms=99.0)
    assert (found.kept, found.dropped) == ((Lever.RETRIEVAL,), (Lever.TEMPLATE,))


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan])
def test_times_are_finite_and_not_negative(wrong):
    with pytest.raises(ValueError, match="0 or more"):
        choose_levers(wrong, (), {}, engine_ms=1.0)
    with pytest.raises(ValueError, match="0 or more"):
        LeverTimes().observe(Lever.ADAPTER, wrong)


def test_quantiles_are_right_within_a_quarter_and_old_times_fade():
    times = LeverTimes()
    assert times.quantile(Lever.RETRIEVAL, 0.99) is None
    drawn = np.random.default_rng(2).lognormal(2.0, 0.7, size=3000)
    for value in drawn:
        times.observe(Lever.RETRIEVAL, float(value))
    for share in (0.5, 0.99):
        exact = float(np.quantile(drawn, share))
        assert exact * 0.99 <= times.quantile(Lever.RETRIEVAL, share) <= exact * 1.26
    assert times.costs() == {Lever.RETRIEVAL: times.quantile(Lever.RETRIEVAL, 0.99)}
    for _ in range(60_000):
        times.observe(Lever.RETRIEVAL, 0.01)
    assert times.quantile(Lever.RETRIEVAL, 0.99) < 0.1
    times.forget(Lever.RETRIEVAL)
    assert (times.count(Lever.RETRIEVAL), times.costs()) == (0, {})
