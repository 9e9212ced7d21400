"""Simulated users of two arms who accept answers or do not, and what a noisy comparison says of them."""

from __future__ import annotations

import numpy as np

from personalization.rollouts.comparing import compare
from personalization.rollouts.evidence import Verdict
from privacy.mechanisms.noisy_comparison import UNIT, Sums

EVENTS = 5
CORRELATION = 0.3  # of one user's reactions


def values_of(random, users, acceptance):
    """The mean of up to five reactions of each user; a user's own rate is beta distributed."""
    spread = (1 - CORRELATION) / CORRELATION
    rates = random.beta(acceptance * spread, (1 - acceptance) * spread, size=users)
    return random.binomial(EVENTS, rates) / EVENTS


def simulated(random, mechanism, arms, *, users, acceptance, effect):
    """One comparison: users come evenly over the looks; returns the verdict it ends with and at which look.

    The noise is continuous here: at this scale (a million units) it cannot be told from the discrete one.
    """
    looks = []
    for _ in range(mechanism.looks):
        count = users // mechanism.looks
        candidate = random.random(count) < arms.share
        values = np.where(
            candidate, values_of(random, count, acceptance + effect), values_of(random, count, acceptance)
        )
        weight = np.where(candidate, 1 / (2 * arms.share), 1 / (2 * (1 - arms.share)))
        sign = np.where(candidate, 1.0, -1.0)
        y = sign * weight * (values - arms.centre)
        half = arms.reach / 2
        sums = (
            np.array([y.sum(), (y * y).sum() / (2 * arms.reach), half * count, half * sign.sum()])
            / arms.length
        )
        noisy = (sums + random.normal(0, mechanism.noise_multiplier, 4)) * UNIT
        looks.append(Sums(*(int(one) for one in noisy)))
        found = compare(mechanism, arms, looks, expected_users=users)
        if found.verdict is not Verdict.NONE:
            break
    return found.verdict, len(looks)


def shares(seed, mechanism, arms, *, runs, users, acceptance=0.5, effect=0.0):
    """Return which share of ``runs`` comparisons ended with each verdict."""
    random = np.random.default_rng(seed)
    ended = [
        simulated(random, mechanism, arms, users=users, acceptance=acceptance, effect=effect)[0]
        for _ in range(runs)
    ]
    return {verdict: ended.count(verdict) / runs for verdict in Verdict}
