"""The accountant against exact integrals, against dp_accounting, and against published numbers."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from privacy.accounting.composition import best_epsilon, conversion_term, curve_of, total_curve
from privacy.accounting.curve import DELTA_UNITS, ORDERS, RdpCurve
from privacy.accounting.filters import UNION_GRID, AccountSettings, FilterRule, PrivacyFilter
from privacy.accounting.second_opinion import (
    PLD_DELTA,
    WHOLE_ORDERS,
    compared_at,
    disagreement,
    dp_event_of,
    pld_epsilon,
    pld_is_exact,
    undercharge,
)
from privacy.errors import LedgerIntegrityError
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.rounding import PICO, rounded_up
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.mechanisms.selection import PureSelection, RepeatAndSelect, TrialsDistribution
from privacy.mechanisms.tenant_gaussian import TenantGaussian

DELTA = 1e-6


def training(q, sigma, steps):
    return PoissonSampledGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


def statistic(sigma, count=1):
    return Gaussian(sensitivity=2.0, standard_deviation=2.0 * sigma, purpose=ReadPurpose.KPI, count=count)


mechanisms_of_one_kind = st.one_of(
    st.builds(training, st.floats(1e-3, 1.0), st.floats(0.7, 20.0), st.integers(1, 200)),
    st.builds(statistic, st.floats(0.7, 100.0), st.integers(1, 20)),
    st.builds(lambda epsilon: PureSelection(epsilon=epsilon), st.floats(1e-2, 3.0)),
)


def default_rdp_epsilon(mechanisms):
    """dp_accounting's own figure, on its default orders."""
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant()
    for mechanism in mechanisms:
        accountant.compose(dp_event_of(mechanism))
    return accountant.get_epsilon(DELTA)


def test_the_reference_values_of_three_settings():
    short, long = training(0.02, 0.8, 300), training(1e-3, 0.7, 10_000)
    assert default_rdp_epsilon([short]) == pytest.approx(5.186, abs=5e-4)
    assert pld_epsilon(Counter([short]), DELTA) == pytest.approx(4.489, abs=5e-4)
    assert default_rdp_epsilon([long]) == pytest.approx(2.473, abs=5e-4)
    assert pld_epsilon(Counter([long]), DELTA) == pytest.approx(1.637, abs=1e-3)
    # our grid is coarser than dp_accounting's default one, and never below the PLD figure
    assert 5.186 <= best_epsilon(curve_of(short), DELTA)[0] < 5.186 * 1.011
    assert 2.473 <= best_epsilon(curve_of(long), DELTA)[0] < 2.473 * 1.011


@pytest.mark.parametrize(("releases", "expected"), [(1, 1.76), (2, 2.45), (4, 3.47), (12, 6.24), (52, 14.57)])
def test_the_reference_pld_values_of_warm_started_releases(releases, expected):
    assert pld_epsilon(Counter({training(0.05, 1.6, 100): releases}), DELTA) == pytest.approx(
        expected, abs=0.006
    )


def selection(epsilon):
    return PureSelection(epsilon=epsilon)


def best_of(sigma, mean=4.0):
    return RepeatAndSelect(
        base=(statistic(sigma),), mean_trials=mean, distribution=TrialsDistribution.POISSON
    )


def gaussian_epsilon(mu, delta=DELTA):
    """The exact ε of μ-GDP (Balle and Wang, 2018)."""
    from scipy import optimize, stats

    def left(epsilon):
        low = stats.norm.logcdf(-mu / 2 - epsilon / mu) + epsilon
        return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(low) - delta

    return optimize.brentq(left, 0.0, 200.0, xtol=1e-12)


@pytest.mark.parametrize(
    ("charged", "mu"),
    [
        (Counter([statistic(2.0, count=9)]), 1.5),
        (Counter([training(1.0, 1.5, 4)]), 2 / 1.5),
        (Counter([TenantGaussian(noise_multiplier=0.8, clipping_norm=30.0)]), 1.25),
        (Counter({statistic(4.0): 4, training(1.0, 2.0, 4): 1}), math.sqrt(1.25)),
    ],
    ids=["statistics", "training on everyone", "tenants", "both"],
)
def test_the_pld_of_normal_noise_is_the_exact_one(charged, mu):
    exact = gaussian_epsilon(mu)
    assert exact <= pld_epsilon(charged, DELTA) <= exact + 2e-3
    assert pld_is_exact(charged)


def test_the_pld_of_pure_choices_is_the_exact_one():
    assert pld_epsilon(Counter([selection(0.7)]), 1e-12) == pytest.approx(0.7, abs=1e-3)
    # of k choices, ε at δ is the largest at which the binomial's privacy loss is that likely
    from scipy import stats

    k, epsilon = 40, 0.25
    chance = 1 / (1 + math.exp(-epsilon))
    right = np.arange(k + 1)
    mass, losses = stats.binom.pmf(right, k, chance), epsilon * (2 * right - k)

    def delta_of(at):
        return float(np.sum(mass * np.clip(-np.expm1(at - losses), 0, None)))

    found = pld_epsilon(Counter({selection(epsilon): k}), DELTA)
    assert delta_of(found) <= DELTA < delta_of(found - 0.01)


def test_the_pld_of_a_choice_among_runs_is_a_bound_and_says_so():
    charged = Counter([best_of(4.0), training(0.05, 1.6, 100)])
    assert not pld_is_exact(charged)
    alone = pld_epsilon(Counter([training(0.05, 1.6, 100)]), DELTA)
    assert alone < pld_epsilon(charged, DELTA) < 2 * best_epsilon(total_curve(tuple(charged)), DELTA)[0]
    assert pld_epsilon(Counter({best_of(4.0): 2}), DELTA) > pld_epsilon(Counter([best_of(4.0)]), DELTA)


def vote(sigma, delta=1e-7):
    return PartitionSelection(noise_multiplier=sigma, delta=delta, unknown_keys=4)


@pytest.mark.parametrize("sigma", [0.8, 4.2, 15.0])
def test_a_vote_agrees_with_dp_accounting_in_every_way(sigma):
    one = vote(sigma)
    curve = curve_of(one)
    at_order = {order: curve.at(float(order)) / PICO for order in WHOLE_ORDERS}
    assert disagreement(one, at_order, curve.delta / DELTA_UNITS) is None
    assert undercharge(one, best_epsilon(curve, compared_at(one))[0]) is None
    assert "delta" in disagreement(one, at_order)  # forgotten
    assert "delta" in disagreement(one, at_order, 0.5e-7)
    assert "delta" in disagreement(statistic(sigma), at_order, 1e-7)
    # with its own δ beside, the PLD of a vote is that of a Gaussian
    exact = gaussian_epsilon(1 / sigma)
    assert exact <= pld_epsilon(Counter([one]), DELTA + 1e-7) + 1e-6
    assert pld_epsilon(Counter([one]), DELTA + 1e-7) <= exact + 3e-3
    assert pld_is_exact(Counter([one]))


def test_votes_and_training_together_are_never_undercharged():
    charged = Counter({vote(6.0, 2e-8): 8, training(0.2, 3.0, 40): 8})
    total = sum((curve_of(one) * count for one, count in charged.items()), RdpCurve.zero())
    ours, second = best_epsilon(total, DELTA)[0], pld_epsilon(charged, DELTA)
    assert 0.85 * ours < second <= ours
    # without its δ', 0.16 of δ, the same sum would claim less than is proved
    assert best_epsilon(RdpCurve(total.values), DELTA)[0] < ours
    assert pld_epsilon(Counter({vote(6.0, 2e-7): 8}), DELTA) == math.inf


def test_nothing_charged_is_nothing():
    assert pld_epsilon(Counter(), DELTA) == 0.0


@pytest.mark.parametrize(
    "mechanism",
    [training(0.05, 1.6, 100), training(1e-3, 0.7, 10_000), training(1.0, 0.3, 1000), training(1e-7, 1e4, 10**6),
     statistic(1.0), selection(2.0), TenantGaussian(noise_multiplier=0.5, clipping_norm=1.0), best_of(2.0)],
)  # fmt: skip
def test_no_mechanism_is_undercharged_and_nine_tenths_of_a_price_are_noticed(mechanism):
    ours = best_epsilon(curve_of(mechanism), PLD_DELTA)[0]
    assert undercharge(mechanism, ours) is None
    if not isinstance(mechanism, RepeatAndSelect):
        second = pld_epsilon(Counter([mechanism]), PLD_DELTA, interval=max(1e-3, ours / 20_000))
        said = undercharge(mechanism, 0.9 * second)
        assert (said is None) == (second < 0.5)
        assert said is None or "PLD says" in said


@given(st.dictionaries(mechanisms_of_one_kind, st.integers(1, 6), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_pld_never_asks_for_more_than_is_charged(charged):
    total = RdpCurve.zero()
    for mechanism, count in charged.items():
        total += curve_of(mechanism) * count
    ours = best_epsilon(total, DELTA)[0]
    interval = max(1e-3, ours / 20_000)
    assert pld_epsilon(Counter(charged), DELTA, interval=interval) <= ours * 1.002 + 0.02


# One release is epsilon 1.0 at delta 1e-6 (privacy governance, facts 5 and 6).
RELEASE = training(0.05, 2.5742773529457335, 100)


@pytest.mark.parametrize(("periods", "expected"), [(4, 18.1), (8, 28.2), (16, 45.0)])
def test_a_renewed_budget_is_no_lifetime_guarantee(periods, expected):
    per_period = 50
    epsilon, _ = best_epsilon(curve_of(RELEASE) * (per_period * periods), DELTA)
    assert best_epsilon(curve_of(RELEASE) * per_period, DELTA)[0] <= 8
    assert epsilon == pytest.approx(expected, rel=5e-3)


def admitted(rule, orders, release=RELEASE):
    opened = PrivacyFilter(epsilon=8.0, delta=DELTA, rule=rule, orders=orders)
    spent, count, asked = RdpCurve.zero(), 0, curve_of(release)
    while opened.admits(spent, asked):
        spent, count = spent + asked, count + 1
    return count


def test_how_many_releases_each_rule_admits():
    fixed = FilterRule.FIXED_ORDER
    own = AccountSettings().orders_for(8.0, DELTA, curve_of(RELEASE))
    assert admitted(fixed, own) == 50
    assert admitted(fixed, (4.0,)) == 50
    assert admitted(fixed, (32.0,)) == 8
    assert admitted(fixed, (2.0,)) == 0
    assert len(UNION_GRID) == 12
    assert admitted(FilterRule.GRID_UNION, UNION_GRID) == 43
    assert (
        int(8 / best_epsilon(curve_of(RELEASE), DELTA)[0]) == 8 - 1
    )  # sums of epsilon: 1.0000001 eight times
    assert pld_epsilon(Counter({RELEASE: 56}), DELTA) <= 8 < pld_epsilon(Counter({RELEASE: 57}), DELTA)


def test_a_year_of_weekly_releases():
    assert best_epsilon(curve_of(RELEASE) * 52, DELTA)[0] == pytest.approx(8.12, rel=2e-3)
    assert pld_epsilon(Counter({RELEASE: 52}), DELTA) == pytest.approx(7.61, abs=0.01)


@pytest.mark.parametrize("order", [1.25, 1.5, 2.5, 4.5, 6.5])
@pytest.mark.parametrize(("q", "sigma"), [(0.02, 0.8), (0.3, 1.5), (0.5, 0.5), (0.9, 4.0)])
def test_fractional_orders_equal_the_defining_integral(q, sigma, order):
    def integrand(x):
        ratio = (1 - q) + q * math.exp((2 * x - 1) / (2 * sigma**2))
        return math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) * ratio**order

    low, high = -12 * sigma, order + 12 * sigma
    value, _ = integrate.quad(
        integrand, low, high, points=np.linspace(low, high, 40)[1:-1], limit=400, epsrel=1e-12
    )
    exact = math.log(value) / (order - 1)
    ours = curve_of(training(q, sigma, 1)).at(order) / PICO
    assert ours == pytest.approx(exact, rel=1e-7, abs=1e-10)
    assert ours >= exact - 1e-10


mechanisms = st.one_of(
    st.builds(
        training,
        st.floats(1e-5, 1.0),
        st.floats(0.3, 50.0),
        st.integers(1, 1000),
    ),
    st.builds(statistic, st.floats(0.3, 1000.0), st.integers(1, 100)),
    st.builds(lambda epsilon: PureSelection(epsilon=epsilon), st.floats(1e-3, 10.0)),
    st.builds(lambda epsilon: ExponentialChoice(epsilon=epsilon, candidates=3), st.floats(1e-3, 8.0)),
    st.builds(
        lambda sigma, mean, distribution: RepeatAndSelect(
            base=(statistic(sigma),), mean_trials=mean, distribution=distribution
        ),
        st.floats(1.0, 50.0),
        st.floats(1.0, 30.0),
        st.sampled_from(TrialsDistribution),
    ),
)


@given(mechanisms)
@settings(max_examples=60, deadline=None)
def test_dp_accounting_agrees_at_whole_orders(mechanism):
    curve = curve_of(mechanism)
    assert disagreement(mechanism, {order: curve.at(float(order)) / PICO for order in WHOLE_ORDERS}) is None


@given(mechanisms)
@settings(max_examples=60, deadline=None)
def test_a_curve_is_positive_and_grows_with_the_order(mechanism):
    values = curve_of(mechanism).values
    assert min(values) >= 1
    assert all(a <= b + 2 for a, b in itertools.pairwise(values))


def test_a_curve_that_is_one_part_in_a_million_off_is_noticed():
    mechanism = training(0.1, 1.0, 10)
    curve = curve_of(mechanism)
    at_order = {order: curve.at(float(order)) / PICO for order in WHOLE_ORDERS}
    assert "order 8" in disagreement(mechanism, {**at_order, 8: at_order[8] * (1 - 1e-5)})
    assert "order 8" in disagreement(mechanism, {**at_order, 8: at_order[8] * (1 + 1e-5)})


def test_orders_that_do_not_converge_are_refused():
    for bad in (math.nan, math.inf, -1e-3):
        with pytest.raises(ValueError, match="did not converge"):
            rounded_up([bad] + [1.0] * (len(ORDERS) - 1), relative_error=0.0)


@given(st.lists(mechanisms, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_sums_are_exact_in_any_order_and_undo_exactly(parts):
    forward, backward = total_curve(tuple(parts)), total_curve(tuple(reversed(parts)))
    assert forward == backward
    rest = forward
    for part in parts:
        rest -= curve_of(part)
    assert rest.is_zero
    with pytest.raises(LedgerIntegrityError):
        _ = rest - curve_of(parts[0])


def test_a_tiny_cost_is_never_lost():
    tiny = curve_of(training(1e-7, 1e4, 1))
    spent = curve_of(training(1.0, 0.05, 1_000_000))
    assert all(after > before for after, before in zip((spent + tiny).values, spent.values, strict=True))


def test_conversion_equals_the_published_formula():
    order, delta, divergence = 4.5, 1e-5, 0.7
    expected = divergence + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)
    assert divergence + conversion_term(order, delta) == pytest.approx(expected, rel=1e-12)
    for bad in (0.0, 1.0, -1e-6, math.nan):
        with pytest.raises(ValueError, match="delta"):
            conversion_term(order, bad)
