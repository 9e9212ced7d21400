"""Lower bounds on ε from canaries, each true with a stated confidence; the best of them is the empirical ε.

*One run* (Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, Theorem 5.2 and
appendix D). Of m canaries, each present by a fair coin, the auditor names the likeliest r/2 as present and the least
likely r/2 as absent. If the mechanism is (ε, δ)-private, the number of right answers is, up to δ, no larger than a
binomial of r trials with chance e^ε/(1+e^ε). Nothing else is assumed: canaries may depend on each other.

*Many trials*. Errors of the test "the score exceeds t", with Clopper and Pearson's (1934) bounds: (ε, δ)-privacy asks
FNR + e^ε·FPR ≥ 1 - δ and the same with both exchanged. Canaries must be independent given the mechanism, as they are
in coordinates of their own or in runs of their own.

*Noise ratio*. The share of right answers of "the score exceeds a cut" bounds the total variation distance between
with and without a canary, which is δ(0) of the mechanism's privacy profile. Among Poisson-sampled Gaussians with the
plan's rate and steps, those whose noise is at least c times the plan's are too private to allow that; the ε of the
largest c that is not excluded is the bound (Nasr et al., "Tight auditing of differentially private machine learning",
USENIX Security 2023, does this with whole trade-off curves). It is the tightest of the three, reaches the ε of any plan
and assumes the family: that the mechanism under audit leaks no less at the plan's δ than the member of it with the
same distance does. Profiles are dp_accounting's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import optimize, stats

from personalization.adapters.manifest import AuditFacts

if TYPE_CHECKING:
    import numpy.typing as npt

    from personalization.canaries.values import CanaryScores
    from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

    Scores = npt.NDArray[np.float64]

CONFIDENCE: Final = 0.95
_ESTIMATORS: Final = 3
# Fixed in advance, as the proofs ask: which share of the canaries is named, and where the scores are cut.
NAMED_SHARES: Final = (1 / 4, 1 / 16, 1 / 64, 1 / 256)
CUTS: Final = (-6.0, -2.0, 0.0, 2.0, 6.0)
LOWEST_RATIO: Final = 0.25  # of the plan's noise; less is reported as this
HIGHEST_RATIO: Final = 16.0
_LARGEST_EPSILON: Final = 64.0


@dataclass(frozen=True, kw_only=True)
class MechanismProfile:
    """The mechanism that is claimed; profiles of its relatives with c times the noise."""

    noise_multiplier: float
    sample_rate: float
    steps: int

    @classmethod
    def of(cls, mechanism: PoissonSampledGaussian) -> MechanismProfile:
        """Take over what the profile depends on."""
        return cls(
            noise_multiplier=mechanism.noise_multiplier,
            sample_rate=mechanism.sample_rate,
            steps=mechanism.steps,
        )

    def distance(self, ratio: float) -> float:
        """Return an upper bound on the total variation distance that one user makes, at ``ratio`` times the noise."""
        return float(_distribution(self, ratio, pessimistic=True).get_delta_for_epsilon(0.0))

    def epsilon(self, ratio: float, delta: float) -> float:
        """Return a lower bound on the exact ε at ``ratio`` times the noise."""
        return float(_distribution(self, ratio, pessimistic=False).get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _distribution(profile: MechanismProfile, ratio: float, *, pessimistic: bool):  # type: ignore[no-untyped-def]  # noqa: ANN202
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415  a second to import

    return privacy_loss_distribution.from_gaussian_mechanism(
        ratio * profile.noise_multiplier,
        sampling_prob=profile.sample_rate,
        pessimistic_estimate=pessimistic,
        use_connect_dots=pessimistic,  # the tighter way to round up; it knows no rounding down
        value_discretization_interval=2e-3,
    ).self_compose(profile.steps)


def one_run_epsilon(scores: CanaryScores, delta: float, doubt: float) -> float:
    """Return the one-run bound, true but with probability ``doubt``."""
    values, truth = scores.arrays()
    order = np.argsort(values, kind="stable")  # among equals by number, which tells nothing of presence
    total, best = len(values), 0.0
    for share in NAMED_SHARES:
        half = int(total * share / 2)
        if half == 0:
            continue
        right = int((~truth[order[:half]]).sum() + truth[order[total - half :]].sum())
        best = max(best, _one_run(total, 2 * half, right, delta, doubt / len(NAMED_SHARES)))
    return best


def _one_run(canaries: int, named: int, right: int, delta: float, doubt: float) -> float:
    def possible(epsilon: float) -> bool:
        return one_run_p_value(canaries, named, right, epsilon, delta) > doubt

    return _largest_excluded(possible)


def one_run_p_value(canaries: int, named: int, right: int, epsilon: float, delta: float) -> float:
    """Return the chance that an (ε, δ)-private mechanism lets an auditor be right so often (Theorem 5.2)."""
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, named, chance))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    masses = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), named, chance))
    alpha = float(np.max(masses / np.arange(1, right + 1)))
    return min(1.0, tail + 2 * canaries * delta * alpha)


def trials_epsilon(scores: CanaryScores, delta: float, doubt: float) -> float:
    """Return the bound from the errors of threshold tests, true but with probability ``doubt``."""
    values, truth = scores.arrays()
    present, absent = values[truth], values[~truth]
    if not len(present) or not len(absent):
        return 0.0
    each = doubt / (4 * len(CUTS))  # two errors, each bounded from above for two directions
    best = 0.0
    for cut in CUTS:
        missed = at_most(int((present <= cut).sum()), len(present), each)
        false = at_most(int((absent > cut).sum()), len(absent), each)
        for kept, lost in ((missed, false), (false, missed)):
            if 1 - delta - kept > 0:
                best = max(best, math.log((1 - delta - kept) / lost))
    return min(best, _LARGEST_EPSILON)


def noise_ratio(scores: CanaryScores, profile: MechanismProfile, doubt: float) -> float:
    """Return the largest noise, as a multiple of the plan's, that is not excluded; true but with ``doubt``."""
    right, trials = _right_answers(scores)
    distance = 2 * at_least(right, trials, doubt) - 1
    if distance <= 0 or profile.distance(HIGHEST_RATIO) >= distance:
        return HIGHEST_RATIO
    lowest = max(LOWEST_RATIO, 0.06 / profile.noise_multiplier)
    if profile.distance(lowest) <= distance:
        return lowest
    found = optimize.brentq(
        lambda log_ratio: profile.distance(math.exp(log_ratio)) - distance,
        math.log(lowest),
        math.log(HIGHEST_RATIO),
        xtol=5e-4,
        rtol=1e-9,
    )
    return math.exp(found + 1e-3)


def _right_answers(scores: CanaryScores) -> tuple[int, int]:
    """Return how often "the score exceeds the cut" is right, and of how many canaries.

    The likelihood ratio is the claimed mechanism's and is best cut at 0. A mechanism that is another one moves all
    scores, so the first eighth of the canaries may choose their median instead; the others are the trials.
    """
    values, truth = scores.arrays()
    first = len(values) // 8
    chosen = max(
        (0.0, float(np.median(values[:first]))), key=lambda cut: _right(values[:first], truth[:first], cut)
    )
    return _right(values[first:], truth[first:], chosen), len(values) - first


def _right(values: Scores, truth: npt.NDArray[np.bool_], cut: float) -> int:
    return int(((values > cut) == truth).sum())


def at_most(count: int, trials: int, doubt: float) -> float:
    """Return Clopper and Pearson's upper bound on a chance after ``count`` of ``trials``."""
    return 1.0 if count == trials else float(stats.beta.ppf(1 - doubt, count + 1, trials - count))


def at_least(count: int, trials: int, doubt: float) -> float:
    """Return Clopper and Pearson's lower bound on a chance after ``count`` of ``trials``."""
    return 0.0 if count == 0 else float(stats.beta.ppf(doubt, count, trials - count + 1))


def audited(
    scores: CanaryScores,
    mechanism: PoissonSampledGaussian,
    *,
    claimed_epsilon: float,
    delta: float,
    confidence: float = CONFIDENCE,
) -> AuditFacts:
    """Return what an audit found, beside the claim.

    Args:
        scores: of the canaries.
        mechanism: what is charged for training.
        claimed_epsilon: its ε by the ledger's accountant at ``delta``.
        delta: of the claim.
        confidence: with which all three bounds hold at once.
    """
    doubt = (1 - confidence) / _ESTIMATORS
    profile = MechanismProfile.of(mechanism)
    ratio = noise_ratio(scores, profile, doubt)
    bounds = {
        "one_run_epsilon": one_run_epsilon(scores, delta, doubt),
        "trials_epsilon": trials_epsilon(scores, delta, doubt),
        "noise_ratio_epsilon": 0.0 if ratio >= HIGHEST_RATIO else profile.epsilon(ratio, delta),
    }
    shown = {name: math.floor(value * 1e6) / 1e6 for name, value in bounds.items()}
    return AuditFacts(
        depth=scores.depth.value,
        canaries=len(scores.present),
        confidence=confidence,
        delta=delta,
        claimed_epsilon=claimed_epsilon,
        empirical_epsilon=max(shown.values()),
        noise_ratio=math.ceil(ratio * 1e6) / 1e6,
        **shown,
    )


def _largest_excluded(possible) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Return the largest ε (to 10⁻⁴) at which what was seen is still too unlikely; 0 when there is none."""
    if possible(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not possible(high):
        low, high = high, 2 * high
        if high > _LARGEST_EPSILON:
            return low
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low
