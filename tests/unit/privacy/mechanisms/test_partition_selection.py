"""The weighted Gaussian: its threshold is the formula's, on the lattice, and conservative for lattice noise."""

import math

import pytest
from scipy import stats

from privacy.mechanisms.partition_selection import VOTE_UNIT, PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose

VOTE = PartitionSelection(noise_multiplier=4.2, delta=1e-6, unknown_keys=4)


@pytest.mark.parametrize("weight", [1e-9, 0.25, 0.6, 1.0])
@pytest.mark.parametrize(
    ("sigma", "delta", "keys"), [(4.2, 1e-6, 4), (0.1, 2.5e-8, 64), (900.0, 1e-15, 1), (2.07, 1e-3, 9)]
)
def test_a_threshold_is_the_weight_and_the_tail_and_at_most_three_units_more(weight, sigma, delta, keys):
    vote = PartitionSelection(noise_multiplier=sigma, delta=delta, unknown_keys=keys)
    exact = weight + sigma * stats.norm.isf(-math.expm1(math.log1p(-delta) / keys))
    threshold = vote.threshold(weight)
    assert exact + 1 / VOTE_UNIT <= threshold <= exact * (1 + 2e-9) + 3 / VOTE_UNIT
    assert threshold * VOTE_UNIT == int(threshold * VOTE_UNIT)


def discrete_tail(deviation, at):
    """P[X ≥ at] of the discrete Gaussian on whole numbers, summed up."""
    reach = range(-math.ceil(40 * deviation) - 2, math.ceil(40 * deviation) + 3)
    mass = [math.exp(-(number**2) / (2 * deviation**2)) for number in reach]
    return math.fsum(mass[at - reach[0] :]) / math.fsum(mass)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 3.7, 50.0])
def test_the_tails_of_both_noises_are_those_of_the_normal_one_unit_lower(deviation):
    for at in sorted({1, 2, *(math.ceil(number * deviation) for number in (1, 2, 4, 5.5))}):
        bound = stats.norm.sf((at - 1) / deviation)
        assert discrete_tail(deviation, at) <= bound
        assert stats.norm.sf((at - 0.5) / deviation) <= bound  # a continuous one, rounded


def test_a_value_at_the_threshold_is_covered_too():
    coarse = 3.7  # units; the lattice's own rounding is then much of the tail
    vote = PartitionSelection(noise_multiplier=0.05, delta=1e-3, unknown_keys=1)
    reach = round((vote.threshold(0.5) - 0.5) * VOTE_UNIT)
    assert stats.norm.sf((reach - 1) / vote.noise_units) <= vote.delta
    in_units = math.ceil(coarse * stats.norm.isf(1e-3)) + 1  # the same rule at a lattice that shows
    assert discrete_tail(coarse, in_units) <= 1e-3


@pytest.mark.parametrize("weights", [(0.96, 0.15, 0.15, 0.15), (0.5,) * 4, (1.0,), (0.9, 0.43)])
@pytest.mark.parametrize("sigma", [0.5, 2.07, 3.9])
def test_a_user_s_own_keys_are_released_with_probability_at_most_delta_however_uneven(weights, sigma):
    vote = PartitionSelection(noise_multiplier=sigma, delta=1e-6, unknown_keys=4)
    stay = sum(stats.norm.logcdf((vote.threshold(weight) - weight) / sigma) for weight in weights)
    assert 0.2 * len(weights) * vote.delta < -math.expm1(stay) <= vote.delta


def test_public_keys_are_kept_falsely_as_seldom_as_asked():
    threshold = VOTE.public_threshold(30, 0.1)
    assert 30 * stats.norm.sf(threshold / 4.2) == pytest.approx(0.1)
    for candidates, false_keys in ((0, 0.1), (30, 0.0), (30, 15.0), (30, math.nan)):
        with pytest.raises(ValueError, match="false keys"):
            VOTE.public_threshold(candidates, false_keys)


def test_it_costs_what_a_gaussian_does_and_its_delta_beside_that():
    assert VOTE.purpose is ReadPurpose.STYLE
    assert VOTE.divergences([2.0, 10.0]) == [order / (2 * 4.2**2) for order in (2.0, 10.0)]
    assert VOTE.selection_delta == 1e-6
    assert VOTE.noise_units == 4.2 * VOTE_UNIT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"delta": 0.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"delta": 0.01}, "delta"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"unknown_keys": 0}, "unknown_keys"),
        ({"unknown_keys": 2.5}, "unknown_keys"),
    ],
)
def test_a_vote_that_promises_nothing_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        PartitionSelection(**{"noise_multiplier": 4.2, "delta": 1e-6, "unknown_keys": 4} | change)


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.0001, math.nan])
def test_a_weight_that_no_vote_can_have_is_refused(weight):
    with pytest.raises(ValueError, match="weight of a key"):
        VOTE.threshold(weight)
