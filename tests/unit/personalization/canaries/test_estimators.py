"""Lower bounds from canaries: true for what is claimed, above it for what leaks more, equal to published ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy import stats

from personalization.canaries.estimators import (
    HIGHEST_RATIO,
    MechanismProfile,
    at_least,
    at_most,
    audited,
    noise_ratio,
    one_run_epsilon,
    one_run_p_value,
    trials_epsilon,
)
from personalization.canaries.values import AuditDepth, AuditRequest, CanaryScores
from personalization.canaries.verdict import audit_check
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

DELTA = 1e-5
DOUBT = 0.05


def gaussian_scores(mu, canaries=16_384, seed=0, assumed=None):
    """Scores of μ-GDP, as a composition of full-batch Gaussian steps gives; ``assumed`` is the μ of the attack."""
    random = np.random.default_rng(seed)
    present = random.integers(0, 2, canaries)
    seen = random.normal(size=canaries) + mu * present
    told = assumed or mu
    return CanaryScores.of(AuditDepth.MECHANISM, told * seen - told**2 / 2, present)


def mechanism(mu, steps=8):
    return PoissonSampledGaussian(noise_multiplier=math.sqrt(steps) / mu, sample_rate=1.0, steps=steps)


def claim(one):
    return best_epsilon(curve_of(one), DELTA)[0]


@pytest.mark.parametrize("mu", [0.3, 0.9, 2.0])
def test_bounds_are_below_the_truth_and_the_best_comes_near(mu):
    one = mechanism(mu)
    facts = [
        audited(gaussian_scores(mu, seed=seed), one, claimed_epsilon=claim(one), delta=DELTA)
        for seed in range(6)
    ]
    exact = MechanismProfile.of(one).epsilon(1.0, DELTA)
    assert all(0 < found.empirical_epsilon <= found.claimed_epsilon for found in facts)
    assert all(audit_check(found).passed for found in facts)
    assert sum(found.empirical_epsilon > exact for found in facts) <= 1
    assert np.median([found.empirical_epsilon for found in facts]) > (0.75 if mu < 0.5 else 0.9) * exact


@pytest.mark.parametrize("mu", [0.3, 0.9, 2.0])
def test_less_noise_than_claimed_is_seen(mu):
    one = mechanism(mu)
    scores = gaussian_scores(mu / 0.7, canaries=32_768, assumed=mu)
    facts = audited(scores, one, claimed_epsilon=claim(one), delta=DELTA)
    assert facts.empirical_epsilon > facts.claimed_epsilon
    check = audit_check(facts)
    assert not check.passed
    assert check.value == facts.empirical_epsilon
    assert facts.noise_ratio < 0.85


def test_scores_that_say_nothing_bound_nothing():
    random = np.random.default_rng(1)
    scores = CanaryScores.of(AuditDepth.MECHANISM, random.normal(size=4096), random.integers(0, 2, 4096))
    one = mechanism(1.0)
    facts = audited(scores, one, claimed_epsilon=claim(one), delta=DELTA)
    assert facts.empirical_epsilon < 0.1
    assert noise_ratio(
        CanaryScores.of(AuditDepth.MECHANISM, [0.0] * 64, [0, 1] * 32), MechanismProfile.of(one), 0.05
    ) == (HIGHEST_RATIO)


def test_certain_guesses_give_what_their_number_allows():
    present = np.random.default_rng(2).integers(0, 2, 4000)
    scores = CanaryScores.of(AuditDepth.MECHANISM, np.where(present, 50.0, -50.0), present)
    assert 4.0 < one_run_epsilon(scores, 0.0, DOUBT) < math.log(4000)
    assert 4.0 < trials_epsilon(scores, 0.0, DOUBT) < math.log(4000)


def test_the_one_run_bound_is_the_published_one():
    """Values of the authors' own program (appendix D), at confidence 0.95."""

    def theirs(m, r, v, eps, delta):
        q = 1 / (1 + math.exp(-eps))
        beta = stats.binom.sf(v - 1, r, q)
        alpha, total = 0.0, 0.0
        for i in range(1, v + 1):
            total += stats.binom.pmf(v - i, r, q)
            alpha = max(alpha, total / i)
        return min(beta + alpha * delta * 2 * m, 1)

    for m, r, v, eps, delta in (
        (1000, 100, 80, 0.7, 1e-5),
        (1000, 1000, 600, 0.2, 1e-4),
        (500, 50, 50, 2.0, 0.0),
    ):
        assert one_run_p_value(m, r, v, eps, delta) == pytest.approx(theirs(m, r, v, eps, delta), rel=1e-9)


def test_the_bounds_of_clopper_and_pearson():
    assert at_most(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert at_least(100, 100, 0.05) == pytest.approx(0.05 ** (1 / 100))
    assert at_most(100, 100, 0.05) == 1.0
    assert at_least(0, 100, 0.05) == 0.0


def test_the_distance_is_that_of_two_normal_distributions_where_everyone_takes_part():
    one = mechanism(0.8)
    for ratio in (0.5, 1.0, 2.0):
        exact = 2 * stats.norm.cdf(0.8 / ratio / 2) - 1
        assert MechanismProfile.of(one).distance(ratio) == pytest.approx(exact, abs=2e-3)
        assert MechanismProfile.of(one).distance(ratio) >= exact - 1e-6


def test_the_reported_epsilon_is_rounded_down_from_the_exact_one():
    one = PoissonSampledGaussian(noise_multiplier=1.2, sample_rate=0.5, steps=4)
    above = privacy_loss_distribution.from_gaussian_mechanism(1.2, sampling_prob=0.5).self_compose(4)
    assert MechanismProfile.of(one).epsilon(1.0, DELTA) <= above.get_epsilon_for_delta(DELTA)
    assert MechanismProfile.of(one).epsilon(1.0, DELTA) > 0.97 * above.get_epsilon_for_delta(DELTA)


def test_what_was_not_audited_does_not_pass():
    assert not audit_check(None).passed


def test_the_number_of_trials_is_public():
    assert AuditRequest().canaries_for(8) == 32_768
    assert AuditRequest().canaries_for(200) == 10_485
    assert AuditRequest().canaries_for(100_000) == 4_096
    assert AuditRequest(depth=AuditDepth.GRADIENTS).canaries_for(8) == 256
    assert AuditRequest(canaries=99).canaries_for(8) == 99
    with pytest.raises(ValueError, match="allowed are 16"):
        AuditRequest(canaries=3)


def test_scores_travel_as_they_are():
    scores = gaussian_scores(1.0, canaries=100)
    assert CanaryScores.from_document(scores.to_document()) == scores
    with pytest.raises(ValueError, match="one score for each"):
        CanaryScores(depth=AuditDepth.MECHANISM, scores=b"1234", present=b"ab")
