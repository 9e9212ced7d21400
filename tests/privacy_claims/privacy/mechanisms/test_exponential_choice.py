"""The draw's law is exact, and what it is charged bounds what any user can change about it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.composition import curve_of
from privacy.accounting.curve import ORDERS
from privacy.accounting.second_opinion import WHOLE_ORDERS, disagreement
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.rounding import PICO
from privacy.mechanisms.selection import PureSelection
from privacy.noise.choice import exponential_choice
from privacy.noise.discrete import Coins
from privacy.noise.keystream import PURPOSE_CHOICE, SecretStream


def law(counts, epsilon):
    """Return the probabilities that are promised."""
    weights = [math.exp(epsilon * (count - max(counts))) for count in counts]
    return [weight / math.fsum(weights) for weight in weights]


def renyi(one, other, order):
    terms = [order * math.log(p) + (1 - order) * math.log(q) for p, q in zip(one, other, strict=True)]
    return (max(terms) + math.log(math.fsum(math.exp(term - max(terms)) for term in terms))) / (order - 1)


@pytest.mark.parametrize(
    ("counts", "epsilon"), [((3, 1, 0), 0.5), ((10, 9), 0.125), ((0, 0, 0, 0), 2.0), ((7,), 1.0)]
)
def test_what_is_drawn_follows_the_formula(counts, epsilon):
    tries = 2_000
    stream = SecretStream(bytes(range(32)))
    drawn = [exponential_choice(stream, PURPOSE_CHOICE, step, counts, epsilon) for step in range(tries)]
    for place, share in enumerate(law(counts, epsilon)):
        deviation = math.sqrt(share * (1 - share) / tries)
        assert abs(drawn.count(place) / tries - share) <= 5 * deviation


class Scripted(Coins):
    """Coins that say which exact probabilities they are asked for, and land as told."""

    def __init__(self, places, lands):
        self.places, self.lands, self.asked = list(places), list(lands), []

    def below(self, _bound):
        return self.places.pop(0)

    def bernoulli_exp(self, gamma):
        self.asked.append(gamma)
        return self.lands.pop(0)


def test_the_coins_are_asked_for_exact_probabilities_alone(monkeypatch):
    """No float stands between the counts and the coins: 0.1 is drawn with as the fraction that it is charged as."""
    coins = Scripted([1, 2, 0], [False, False, True])
    monkeypatch.setattr("privacy.noise.choice.Coins", lambda _: coins)
    assert exponential_choice(SecretStream(bytes(32)), PURPOSE_CHOICE, 0, [10**15, 10**15 - 1, 4], 0.1) == 0
    assert coins.asked == [Fraction(0.1), Fraction(0.1) * (10**15 - 4), Fraction(0)]


def test_a_draw_without_candidates_or_epsilon_is_refused():
    for counts, epsilon in (([], 1.0), ([1, 2], 0.0)):
        with pytest.raises(ValueError, match="at least one candidate"):
            exponential_choice(SecretStream(bytes(32)), PURPOSE_CHOICE, 0, counts, epsilon)


epsilons = st.floats(0.01, 4.0)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=5), st.data(), epsilons)
@settings(max_examples=25, deadline=None)
def test_the_price_bounds_every_divergence_between_neighbours_both_ways(counts, data, epsilon):
    place = data.draw(st.integers(0, len(counts) - 1))
    more = [count + (number == place) for number, count in enumerate(counts)]
    one, other = law(more, epsilon), law(counts, epsilon)
    losses = [math.log(p / q) for p, q in zip(one, other, strict=True)]
    assert max(map(abs, losses)) <= epsilon * (1 + 1e-9)
    assert max(losses) - min(losses) <= epsilon * (1 + 1e-9)
    price = ExponentialChoice(epsilon=epsilon, candidates=len(counts)).divergences(ORDERS)
    for order, bound in zip(ORDERS, price, strict=True):
        assert renyi(one, other, order) <= bound * (1 + 1e-6) + 1e-9
        assert renyi(other, one, order) <= bound * (1 + 1e-6) + 1e-9


def test_the_price_is_nearly_reached_and_a_quarter_of_what_a_pure_selection_costs():
    epsilon = 0.2
    one, other = law([1, 0], epsilon), law([0, 0], epsilon)
    price = ExponentialChoice(epsilon=epsilon, candidates=2).divergences([2.0])[0]
    assert renyi(one, other, 2.0) > 0.98 * price
    assert price < 0.26 * PureSelection(epsilon=epsilon).divergences([2.0])[0]
    assert ExponentialChoice(epsilon=8.0, candidates=2).divergences([1024.0])[0] <= 8.0


def test_a_user_who_votes_twice_would_cost_more_than_is_charged():
    """The planted fault: with two votes a user, neighbours are further apart than the price says."""
    epsilon = 1.0
    one, other = law([2, 0], epsilon), law([0, 0], epsilon)
    price = ExponentialChoice(epsilon=epsilon, candidates=2).divergences([2.0])[0]
    assert renyi(one, other, 2.0) > 1.8 * price


@given(epsilons)
@settings(max_examples=10, deadline=None)
def test_dp_accounting_agrees(epsilon):
    mechanism = ExponentialChoice(epsilon=epsilon, candidates=3)
    curve = curve_of(mechanism)
    at_order = {order: curve.at(float(order)) / PICO for order in WHOLE_ORDERS}
    assert disagreement(mechanism, at_order) is None
    lower = {order: value * (1 - 1e-5) for order, value in at_order.items()}
    assert "by dp_accounting" in disagreement(mechanism, lower)
    assert all(a <= b + 2 for a, b in itertools.pairwise(curve.values))


@pytest.mark.parametrize(
    "bad", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"candidates": 1}, {"candidates": True}]
)
def test_what_cannot_be_charged_is_refused(bad):
    with pytest.raises(ValueError, match="allowed is"):
        ExponentialChoice(**{"epsilon": 1.0, "candidates": 2, **bad})
