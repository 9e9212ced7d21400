"""Filters: what they admit is within the target, narrowing only narrows, and the fixed order is public."""

import decimal
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.composition import best_epsilon, curve_of, epsilon_at_order
from privacy.accounting.curve import ORDERS, RdpCurve
from privacy.accounting.filters import (
    UNION_GRID,
    AccountSettings,
    BudgetCaps,
    FilterRule,
    PrivacyFilter,
    best_order,
    budget_at,
)
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

RECIPE = PoissonSampledGaussian(noise_multiplier=2.0, sample_rate=0.1, steps=20)

requests = st.lists(
    st.builds(
        lambda sigma, rate, steps: PoissonSampledGaussian(
            noise_multiplier=sigma, sample_rate=rate, steps=steps
        ),
        st.floats(0.5, 8.0),
        st.sampled_from([0.01, 0.1, 0.5, 1.0]),
        st.integers(1, 60),
    ),
    max_size=25,
)


@given(requests, st.floats(0.2, 12.0), st.sampled_from([1e-9, 1e-6, 1e-4]), st.sampled_from(FilterRule))
@settings(max_examples=40, deadline=None)
def test_whatever_is_admitted_stays_within_the_target(asked, epsilon, delta, rule):
    orders = AccountSettings(rule=rule).orders_for(epsilon, delta, curve_of(RECIPE))
    opened = PrivacyFilter(epsilon=epsilon, delta=delta, rule=rule, orders=orders)
    spent = RdpCurve.zero()
    for mechanism in asked:
        curve = curve_of(mechanism)
        if opened.admits(spent, curve):
            spent += curve
    share = delta / len(orders)
    assert min(epsilon_at_order(spent, share, order) for order in orders) <= epsilon or spent.is_zero
    assert best_epsilon(spent, delta)[0] <= epsilon
    assert 0 <= opened.used_fraction(spent) <= 1


def test_the_last_pico_nat_decides():
    opened = PrivacyFilter(epsilon=2.0, delta=1e-6, rule=FilterRule.FIXED_ORDER, orders=(12.0,))
    exact = RdpCurve(tuple(opened.budget(12.0) if order == 12.0 else 0 for order in ORDERS))
    one = RdpCurve(tuple(1 if order == 12.0 else 0 for order in ORDERS))
    assert opened.admits(RdpCurve.zero(), exact)
    assert not opened.admits(exact, one)


@pytest.mark.parametrize("order", [1.25, 2.0, 12.0, 64.0, 1024.0])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-6), (8.0, 1e-5), (100.0, 1e-12)])
def test_a_budget_is_never_above_the_exact_one(epsilon, delta, order):
    """B(α) worked out with fifty digits."""
    with decimal.localcontext(prec=50):
        alpha, exact_delta = decimal.Decimal(order), decimal.Decimal(delta)
        term = (1 - 1 / alpha).ln() - (exact_delta.ln() + alpha.ln()) / (alpha - 1)
        exact = (decimal.Decimal(epsilon) - term) * 10**12
    assert exact - 10 < budget_at(epsilon, delta, order) <= exact


def test_narrowing_never_widens():
    opened = PrivacyFilter(epsilon=2.0, delta=1e-6, rule=FilterRule.FIXED_ORDER, orders=(12.0,))
    assert opened.narrowed_to(9.0, 1e-3) == opened
    assert opened.narrowed_to(1.0, 1e-3).budget(12.0) < opened.budget(12.0)
    assert opened.narrowed_to(9.0, 1e-9).budget(12.0) < opened.budget(12.0)


def test_the_fixed_order_suits_the_recipe():
    curve = curve_of(RECIPE)
    chosen = best_order(3.0, 1e-6, curve)

    def releases(order):
        opened = PrivacyFilter(epsilon=3.0, delta=1e-6, rule=FilterRule.FIXED_ORDER, orders=(order,))
        return opened.budget(order) // curve.at(order)

    assert releases(chosen) == max(releases(order) for order in ORDERS)
    assert AccountSettings(order=8.0).orders_for(3.0, 1e-6, curve) == (8.0,)
    assert AccountSettings(rule=FilterRule.GRID_UNION).orders_for(3.0, 1e-6, curve) == UNION_GRID


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0, 1e9])
def test_targets_that_cannot_be_enforced_are_refused(bad):
    with pytest.raises(ValueError, match="epsilon"):
        BudgetCaps(period_epsilon=bad, period_delta=1e-6, lifetime_epsilon=1.0, lifetime_delta=1e-6)
    with pytest.raises(ValueError, match="delta"):
        BudgetCaps(period_epsilon=1.0, period_delta=1e-6, lifetime_epsilon=1.0, lifetime_delta=bad)


def test_orders_outside_the_grid_are_refused():
    with pytest.raises(ValueError, match="order"):
        AccountSettings(order=2.1)
    with pytest.raises(ValueError, match="orders"):
        PrivacyFilter(epsilon=1.0, delta=1e-6, rule=FilterRule.GRID_UNION, orders=())
    with pytest.raises(ValueError, match="one order"):
        PrivacyFilter(epsilon=1.0, delta=1e-6, rule=FilterRule.FIXED_ORDER, orders=(2.0, 3.0))
