"""δ of selections: sums are exact, whatever is admitted is (ε, δ) in all, and a filter that forgets δ' is noticed."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.composition import best_epsilon, curve_of, delta_left, delta_units, epsilon_at_order
from privacy.accounting.curve import DELTA_UNITS, ORDERS, RdpCurve
from privacy.accounting.filters import (
    SELECTION_SHARE,
    AccountSettings,
    FilterRule,
    PrivacyFilter,
    conversion_delta,
)
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

curves = st.builds(
    RdpCurve,
    st.tuples(*[st.integers(0, 10**15)] * len(ORDERS)),
    st.one_of(st.just(0), st.integers(0, 10**21)),
)
votes = st.builds(
    lambda noise, delta: PartitionSelection(noise_multiplier=noise, delta=delta, unknown_keys=4),
    st.floats(1.0, 50.0),
    st.floats(1e-12, 3e-7),
)
trainings = st.builds(
    lambda noise: PoissonSampledGaussian(noise_multiplier=noise, sample_rate=0.2, steps=10),
    st.floats(1.0, 9.0),
)
targets = st.tuples(st.floats(0.3, 12.0), st.sampled_from([1e-9, 1e-6, 1e-4]), st.sampled_from(FilterRule))


class BlindFilter(PrivacyFilter):
    """A planted bug: δ of selections is not asked for."""

    def admits(self, spent, asked):
        return super().admits(RdpCurve(spent.values), RdpCurve(asked.values))


@given(curves, curves, st.integers(0, 50))
def test_sums_differences_and_documents_are_exact(one, other, times):
    assert (one + other) - other == one
    assert (one + other).delta == one.delta + other.delta
    assert (one * times).delta == one.delta * times
    document = one.to_document()
    assert RdpCurve.from_document(document) == one
    assert ("selection_delta" in document) == (one.delta > 0)  # what is from before stays as it was


@given(st.floats(1e-24, 1e-3))
def test_a_delta_is_rounded_up_once_and_by_less_than_a_unit(delta):
    assert 0 <= delta_units(delta) - Fraction(delta) * DELTA_UNITS < 1


@given(st.floats(1e-15, 1e-3), st.floats(0, 0.5))
def test_both_parts_of_a_delta_never_exceed_it(delta, share):
    opened = PrivacyFilter(
        epsilon=1.0, delta=delta, rule=FilterRule.FIXED_ORDER, orders=(8.0,), selection_share=share
    )
    parts = Fraction(conversion_delta(delta, share)) + Fraction(opened.selection_budget, DELTA_UNITS)
    assert Fraction(delta) * (1 - Fraction(1, 10**14)) - Fraction(1, DELTA_UNITS) <= parts <= Fraction(delta)


def admitted(opened, asked):
    spent = RdpCurve.zero()
    for mechanism in asked:
        if opened.admits(spent, curve_of(mechanism)):
            spent += curve_of(mechanism)
    return spent


def proved(opened, spent):
    """Say whether (ε, δ) follows from what was spent, by the conversion and the sum of δ' alone."""
    share = conversion_delta(opened.delta, opened.selection_share) / len(opened.orders)
    divergences = RdpCurve(spent.values)
    return (
        min(epsilon_at_order(divergences, share, order) for order in opened.orders) <= opened.epsilon
        and Fraction(share) * len(opened.orders) + Fraction(spent.delta, DELTA_UNITS) <= opened.delta
    )


@given(st.lists(st.one_of(votes, trainings), max_size=25), targets)
@settings(max_examples=60, deadline=None)
def test_whatever_is_admitted_with_votes_is_within_the_target(asked, target):
    epsilon, delta, rule = target
    opened = AccountSettings(rule=rule).opened(
        epsilon, delta, curve_of(asked[0]) if asked else RdpCurve.zero()
    )
    spent = admitted(opened, asked)
    assert opened.selection_share == SELECTION_SHARE
    assert proved(opened, spent)
    assert best_epsilon(spent, delta)[0] <= epsilon
    assert 0 <= opened.used_fraction(spent) <= 1
    assert opened.narrowed_to(epsilon, delta / 2).selection_budget <= opened.selection_budget // 2 + 1


def test_a_filter_that_forgets_the_delta_of_selections_is_noticed():
    vote = PartitionSelection(noise_multiplier=30.0, delta=6e-8, unknown_keys=4)
    opened = AccountSettings().opened(4.0, 1e-6, curve_of(vote))
    planted = BlindFilter(**vars(opened))
    spent = admitted(opened, [vote] * 20)
    assert spent.delta == 3 * delta_units(6e-8)  # of the fifth of 1e-6
    assert opened.used_fraction(spent) == pytest.approx(0.9)
    assert proved(opened, spent)
    assert not proved(planted, admitted(planted, [vote] * 20))


def test_an_account_from_before_admits_no_selection_and_converts_as_it_did():
    old = PrivacyFilter(epsilon=4.0, delta=1e-6, rule=FilterRule.FIXED_ORDER, orders=(12.0,))
    new = AccountSettings(order=12.0).opened(4.0, 1e-6, RdpCurve.zero())
    assert old.selection_budget == 0
    assert not old.admits(RdpCurve.zero(), RdpCurve((0,) * len(ORDERS), 1))
    assert old.budget(12.0) > new.budget(12.0) > 0.99 * old.budget(12.0)
    assert old.used_fraction(RdpCurve.zero()) == 0
    assert old.used_fraction(RdpCurve((0,) * len(ORDERS), 1)) == 1


@given(st.floats(1e-8, 1e-4), st.integers(0, 20))
def test_epsilon_is_at_what_selections_leave_of_delta(delta, count):
    vote = curve_of(PartitionSelection(noise_multiplier=9.0, delta=delta / 10, unknown_keys=4))
    spent = vote * count
    left = delta_left(spent, delta)
    assert Fraction(left) <= max(0, Fraction(delta) - Fraction(spent.delta, DELTA_UNITS))
    if count < 10:
        assert left == pytest.approx(delta * (1 - count / 10), rel=1e-9)
        alone = best_epsilon(RdpCurve(spent.values), left)
        assert best_epsilon(spent, delta) == alone
    if count > 10:
        assert best_epsilon(spent, delta)[0] == float("inf")
