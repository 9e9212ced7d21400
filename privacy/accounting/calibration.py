"""Calibration: the smallest noise multiplier that lets the whole planned schedule through both filters.

What it refuses is refused because the resulting claim would be false or empty: a δ that allows one user's
data to be published outright, an ε outside the range in which the claim says anything, a rate at which
steps often see nobody, and claims about replacing a user made from add-or-remove accounting.

Longer than 400 lines, because what each kind of read takes and what that leaves for training are reckoned together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from privacy.accounting.composition import best_epsilon, curve_of, delta_units, total_curve
from privacy.accounting.curve import DELTA_UNITS, ORDERS, RdpCurve
from privacy.accounting.filters import (
    SELECTION_SHARE,
    AccountSettings,
    BudgetCaps,
    budget_at,
    conversion_delta,
)
from privacy.errors import CalibrationError
from privacy.guarantee import NeighboringRelation
from privacy.mechanisms.documents import Mechanism
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.noisy_comparison import NoisyComparison
from privacy.mechanisms.partition_selection import LEADING_KEYS, LEADING_WEIGHT, PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.rounding import PICO
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.mechanisms.tenant_gaussian import TenantGaussian

if TYPE_CHECKING:
    from collections.abc import Callable

    from privacy.policy.values import TenantPrivacyPolicy

SMALLEST_EPSILON: Final = 0.01
LARGEST_EPSILON: Final = 64.0
SMALLEST_NOISE_MULTIPLIER: Final = 0.3  # below it one step already costs several ε at any rate
LARGEST_NOISE_MULTIPLIER: Final = 1000.0
LARGEST_EMPTY_PROBABILITY: Final = 0.01
DECIMALS: Final = 4  # of the returned multiplier, rounded up

# Share of the budget that the noisy cohort counts of all releases may take; training keeps the rest.
COUNT_SHARE: Final = 0.1
SMALLEST_COUNT_DEVIATION: Final = 1.0  # users

# Share of the budget that usual style votes of all releases may take at most; training keeps the rest.
STYLE_SHARE: Final = 0.6
# A vote is as noisy as it may be while an opening of this weight is found that so many of the declared users share...
OPENING_WEIGHT: Final = 0.6
FOUND_SHARE: Final = 0.08
FOUND_QUANTILE: Final = 1.2816  # ...nine times out of ten
LARGEST_FOUND_SHARE: Final = 0.5  # of the users; where it takes more, such a vote is not worth its price
# A vote that leads takes so much, less what readings of drift take: next to nothing is left for training then.
LEADING_SHARE: Final = 0.85
UNKNOWN_KEYS: Final = 64  # of one user, outside public alphabets, over all families and texts
SMALLEST_VOTE_NOISE: Final = 0.1
SMALLEST_READING_NOISE: Final = 0.5  # of a reading of drift, over one user's part
LARGEST_VOTE_NOISE: Final = 1000.0


@dataclass(frozen=True, kw_only=True)
class PlannedSchedule:
    """The public numbers of all releases that a budget has to last for.

    Attributes:
        caps: period and lifetime caps.
        declared_users: public lower bound on the tenant's users.
        sample_rate: Poisson probability per user and step.
        steps: mechanism applications of one release.
        releases: over the lifetime.
        releases_per_period: most releases that fall into one period.
        beside: other mechanisms that every release charges, such as the noisy cohort count.
        later: what every release may charge afterwards, in a reservation of its own: the comparison of its rollout.
        slipped: releases of the period before whose ``later`` may fall into the next: one of each line.
        reading: what one reading of drift charges, which has a schedule of its own; None where none is taken.
        readings: over the lifetime.
        readings_per_period: most readings that fall into one period.
        relation: what the claim will be about; only add-or-remove-one is accounted.
        settings: how accounts are opened.
    """

    caps: BudgetCaps
    declared_users: int
    sample_rate: float
    steps: int
    releases: int
    releases_per_period: int
    beside: tuple[Mechanism, ...] = ()
    later: tuple[Mechanism, ...] = ()
    slipped: int = 0
    reading: Gaussian | None = None
    readings: int = 0
    readings_per_period: int = 0
    relation: str = NeighboringRelation.ADD_OR_REMOVE_ONE
    settings: AccountSettings = field(default_factory=AccountSettings)


def cohort_count(caps: BudgetCaps, *, releases: int, releases_per_period: int, left: float = 1.0) -> Gaussian:
    """Return the noisy count of users that each release charges beside its training.

    Its noise (standard deviation in users, sensitivity 1) is such that the counts of all planned releases
    take a tenth of either budget (of the share that is ``left`` of it) at the order where a Gaussian fits best.
    """
    deviation = max(
        SMALLEST_COUNT_DEVIATION, _least_deviation(caps, COUNT_SHARE * left, releases, releases_per_period)
    )
    return Gaussian(
        sensitivity=1.0,
        standard_deviation=math.ceil(deviation * 10) / 10,
        purpose=ReadPurpose.COHORT_COUNT,
    )


def style_vote(
    caps: BudgetCaps,
    *,
    declared_users: int,
    releases: int,
    releases_per_period: int,
    unknown_keys: int = UNKNOWN_KEYS,
    left: float = 1.0,
    readings: float = 0.0,
) -> PartitionSelection | None:
    """Return the vote on what answers look like that each release charges beside its training.

    Its noise is the largest with which an opening is still found that ``FOUND_SHARE`` of the declared users share, but
    never so small that the votes of all planned releases would take more than ``STYLE_SHARE`` of either budget at the
    order where a Gaussian fits best. Where an opening would then be found only if more than ``LARGEST_FOUND_SHARE`` of
    the declared users shared it, the vote leads: it has as little noise as ``LEADING_SHARE`` of either budget allows,
    is about openings first, and reserves ``LEADING_KEYS`` keys. Its δ' is what the accounts keep for selections, shared
    evenly among the votes.

    Args:
        caps: of the policy.
        declared_users: the policy's public number.
        releases: votes over the lifetime.
        releases_per_period: most votes in a period.
        unknown_keys: most keys of one user outside public alphabets, of a vote that does not lead.
        left: share of the budgets that comparisons of users' reactions leave.
        readings: share that readings of drift take, which a vote that leads leaves them.

    Returns:
        None where even a vote that leads would find an opening only if more than ``LARGEST_FOUND_SHARE`` of the
        declared users shared it, or noise would be out of range: then no vote is charged.
    """
    units = min(
        _even_share(caps.lifetime_delta, releases), _even_share(caps.period_delta, releases_per_period)
    )
    if units == 0:
        return None
    delta = units / DELTA_UNITS
    while delta_units(delta) > units:
        delta = math.nextafter(delta, 0.0)

    def vote(noise_multiplier: float, keys: int = unknown_keys) -> PartitionSelection:
        return PartitionSelection(noise_multiplier=noise_multiplier, delta=delta, unknown_keys=keys)

    # threshold + quantile·σ is linear in σ, up to the lattice
    per_noise = vote(1.0).threshold(OPENING_WEIGHT) - OPENING_WEIGHT + FOUND_QUANTILE
    wanted = (FOUND_SHARE * declared_users - 1) * OPENING_WEIGHT / per_noise
    for share, weight, keys, wish in (
        (STYLE_SHARE, OPENING_WEIGHT, unknown_keys, wanted),
        (max(STYLE_SHARE, LEADING_SHARE - readings), LEADING_WEIGHT, LEADING_KEYS, 0.0),
    ):
        least = _least_deviation(caps, share * left, releases, releases_per_period)
        noise = min(max(wish, least, SMALLEST_VOTE_NOISE), LARGEST_VOTE_NOISE)
        if noise < least:
            return None
        chosen = vote(math.ceil(noise * 100) / 100, keys)
        if users_to_find(chosen, weight) <= LARGEST_FOUND_SHARE * declared_users:
            return chosen
    return None


def drift_reading(policy: TenantPrivacyPolicy) -> Gaussian | None:
    """Return what one reading of drift charges under a policy; None where it has none taken.

    A user's part has length at most 1. All planned readings together take ``drift.share`` of either budget, at the
    order where a Gaussian fits best.
    """
    if not policy.drift.read:
        return None
    readings = policy.drift.planned_readings
    deviation = _least_deviation(caps_of(policy), policy.drift.share, readings, readings_per_period(policy))
    return Gaussian(
        sensitivity=1.0,
        standard_deviation=math.ceil(max(deviation, SMALLEST_READING_NOISE) * 100) / 100,
        purpose=ReadPurpose.DRIFT,
    )


def readings_per_period(policy: TenantPrivacyPolicy) -> int:
    """Return the most readings of drift, over all lines, that fall into one budget period."""
    instants = math.ceil(policy.period_seconds / policy.drift.every_seconds)
    return min(policy.drift.planned_readings, instants * len(policy.domains))


def users_to_find(vote: PartitionSelection, weight: float) -> float:
    """Return how many users must hold a key of this weight for it to be found nine times out of ten."""
    return (vote.threshold(weight) + FOUND_QUANTILE * vote.noise_multiplier) / weight


def _even_share(delta: float, votes: int) -> int:
    """Return the largest δ', in units, of which so many stay within what an account of ``delta`` keeps for them."""
    return math.floor(Fraction(delta) * Fraction(SELECTION_SHARE) * DELTA_UNITS) // votes


def _least_deviation(caps: BudgetCaps, share: float, releases: int, releases_per_period: int) -> float:
    """Return σ ÷ sensitivity at which one Gaussian a release takes this share of the tighter budget; 0 where none can.

    Each budget is taken at the order where a Gaussian fits best.
    """
    variance = 0.0
    for epsilon, delta, count in (
        (caps.lifetime_epsilon, caps.lifetime_delta, releases),
        (caps.period_epsilon, caps.period_delta, releases_per_period),
    ):
        left = conversion_delta(delta, SELECTION_SHARE)
        per_order = max(budget_at(epsilon, left, order) / PICO / order for order in ORDERS)
        if per_order > 0:
            variance = max(variance, count / (2 * share * per_order))
    return math.sqrt(variance)


def _left_by(
    comparison: NoisyComparison | None, caps: BudgetCaps, *, releases: int, releases_per_period: int
) -> float:
    """Return which share of the tighter budget the comparisons of all releases leave; at least a hundredth."""
    if comparison is None:
        return 1.0
    whole = _least_deviation(caps, 1.0, releases, releases_per_period)
    return max(0.01, 1 - (whole / comparison.noise_multiplier) ** 2)


def release_mechanisms(policy: TenantPrivacyPolicy, noise_multiplier: float) -> tuple[Mechanism, ...]:
    """Return what one release under this policy reads at most: its count, style vote, training, and comparison."""
    schedule = schedule_of(policy)
    return (
        *schedule.beside,
        *schedule.later,
        PoissonSampledGaussian(
            noise_multiplier=noise_multiplier,
            sample_rate=policy.sample_rate,
            steps=policy.steps,
            clipping_norm=policy.clipping_norm,
            contribution_bound=policy.contribution_bound,
        ),
    )


def style_vote_of(policy: TenantPrivacyPolicy) -> PartitionSelection | None:
    """Return the style vote that each release under this policy charges, if it charges one."""
    votes = (one for one in schedule_of(policy).beside if isinstance(one, PartitionSelection))
    return next(votes, None)


def asks_for_terms(policy: TenantPrivacyPolicy) -> bool:
    """Say whether users vote over terms in each release: as the policy has it, unless the vote is one of openings."""
    vote = style_vote_of(policy)
    return policy.terms and vote is not None and not vote.leads


def comparison_of(policy: TenantPrivacyPolicy) -> NoisyComparison | None:
    """Return the comparison by users' reactions that each release under this policy may charge; None where none may.

    Its noise is the least with which all its looks together cost ``rollout.reaction_epsilon`` at the lifetime's δ.
    """
    asked = policy.rollout
    if not asked.by_reactions:
        return None

    def enough(noise_multiplier: float) -> bool:
        mechanism = NoisyComparison(noise_multiplier=noise_multiplier, looks=asked.looks)
        return best_epsilon(curve_of(mechanism), policy.lifetime_delta)[0] <= asked.reaction_epsilon

    noise = least_noise(enough)
    if noise is None:
        raise CalibrationError(
            f"no comparison costs as little as epsilon {asked.reaction_epsilon:g} with a noise multiplier up to "
            f"{LARGEST_NOISE_MULTIPLIER:g}; set a larger rollout.reaction_epsilon"
        )
    return NoisyComparison(noise_multiplier=noise, looks=asked.looks)


def caps_of(policy: TenantPrivacyPolicy) -> BudgetCaps:
    """Return the two caps of a policy."""
    return BudgetCaps(
        period_epsilon=policy.period_epsilon,
        period_delta=policy.period_delta,
        lifetime_epsilon=policy.lifetime_epsilon,
        lifetime_delta=policy.lifetime_delta,
    )


def schedule_of(
    policy: TenantPrivacyPolicy,
    settings: AccountSettings | None = None,
    *,
    releases: int | None = None,
    releases_per_period: int | None = None,
) -> PlannedSchedule:
    """Return what a policy plans: all its releases, each with a noisy cohort count and a style vote beside training.

    Where users' reactions decide rollouts, each release also keeps room for its comparison. The vote is left out where
    the policy has ``styles`` off or where it would find nothing (``style_vote``). Every domain has an adapter line of
    its own, and all lines of a tenant draw on the same budget.

    Args:
        policy: the policy.
        settings: how accounts are opened.
        releases: over the lifetime, if not as the policy plans.
        releases_per_period: most in a period, if not as its schedule has it.
    """
    caps, releases = caps_of(policy), releases or policy.planned_releases
    instants = math.ceil(policy.period_seconds / policy.schedule.every_seconds)
    per_period = releases_per_period or min(releases, instants * len(policy.domains))
    comparison = comparison_of(policy)
    slipped = 0 if comparison is None else len(policy.domains)
    left = _left_by(comparison, caps, releases=releases, releases_per_period=per_period + slipped)
    count = cohort_count(caps, releases=releases, releases_per_period=per_period, left=left)
    vote = (
        style_vote(
            caps,
            declared_users=policy.declared_users,
            releases=releases,
            releases_per_period=per_period,
            left=left,
            readings=policy.drift.share if policy.drift.read else 0.0,
        )
        if policy.styles
        else None
    )
    return PlannedSchedule(
        caps=caps,
        declared_users=policy.declared_users,
        sample_rate=policy.sample_rate,
        steps=policy.steps,
        releases=releases,
        releases_per_period=per_period,
        beside=(count,) if vote is None else (count, vote),
        later=() if comparison is None else (comparison,),
        slipped=slipped,
        reading=drift_reading(policy),
        readings=policy.drift.planned_readings,
        readings_per_period=readings_per_period(policy),
        settings=settings or AccountSettings(),
    )


def calibrate(schedule: PlannedSchedule) -> float:
    """Return the noise multiplier for a whole schedule, rounded up to four decimals.

    Raises:
        CalibrationError: the request is outside the allowed ranges, or no multiplier in them is enough.
    """
    _refuse(schedule)
    noise = least_noise(lambda noise_multiplier: fits(schedule, noise_multiplier))
    if noise is None:
        raise CalibrationError(
            f"{schedule.releases} releases of {schedule.steps} steps do not fit into epsilon "
            f"{schedule.caps.lifetime_epsilon:g} (lifetime) and {schedule.caps.period_epsilon:g} (period) with a "
            f"noise multiplier up to {LARGEST_NOISE_MULTIPLIER:g}; plan fewer releases or steps, or a larger epsilon"
        )
    return noise


def least_noise(enough: Callable[[float], bool]) -> float | None:
    """Return the least noise multiplier in range that is enough, rounded up to four decimals; None if none is.

    Args:
        enough: says so of a multiplier; of every larger one too.
    """
    low, high = SMALLEST_NOISE_MULTIPLIER, LARGEST_NOISE_MULTIPLIER
    if not enough(high):
        return None
    if enough(low):
        return low
    while high - low > 10**-DECIMALS / 2:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.ceil(high * 10**DECIMALS) / 10**DECIMALS


def calibrate_policy(policy: TenantPrivacyPolicy) -> float:
    """Return the noise multiplier for all planned releases of a policy, each with its noisy cohort count.

    Raises:
        CalibrationError: no sound noise multiplier meets the policy.
    """
    return calibrate(schedule_of(policy))


def calibrate_tenant_level(caps: BudgetCaps, *, generations: int, clipping_norm: float) -> TenantGaussian:
    """Return the mechanism with the least noise of which so many fit into the fleet's lifetime cap.

    Raises:
        CalibrationError: no multiplier up to the largest is enough.
    """

    def enough(noise_multiplier: float) -> bool:
        one = curve_of(TenantGaussian(noise_multiplier=noise_multiplier, clipping_norm=clipping_norm))
        settings = AccountSettings(selection_share=0.0)  # the fleet's accounts: users vote, tenants do not
        return _all_pass(one, caps, settings, releases=generations, releases_per_period=1)

    noise = least_noise(enough)
    if noise is None:
        raise CalibrationError(
            f"{generations} meta starts do not fit into epsilon {caps.lifetime_epsilon:g} with a noise multiplier up "
            f"to {LARGEST_NOISE_MULTIPLIER:g}; plan fewer or a larger epsilon"
        )
    return TenantGaussian(noise_multiplier=noise, clipping_norm=clipping_norm)


def fits(schedule: PlannedSchedule, noise_multiplier: float) -> bool:
    """Say whether all planned releases and readings of drift pass both filters with this noise multiplier."""
    return _all_pass(
        round_curve(schedule, noise_multiplier),
        schedule.caps,
        schedule.settings,
        releases=schedule.releases,
        releases_per_period=schedule.releases_per_period,
        later=total_curve(schedule.later),
        slipped=schedule.slipped,
        readings=readings_curves(schedule),
    )


def readings_curves(schedule: PlannedSchedule) -> tuple[RdpCurve, RdpCurve]:
    """Return what the planned readings of drift cost over the lifetime, and in one period."""
    if schedule.reading is None:
        return RdpCurve.zero(), RdpCurve.zero()
    one = curve_of(schedule.reading)
    return one * schedule.readings, one * schedule.readings_per_period


def release_curve(schedule: PlannedSchedule, noise_multiplier: float) -> RdpCurve:
    """Return what one release of a schedule costs with this noise multiplier, with what it may charge later."""
    return round_curve(schedule, noise_multiplier) + total_curve(schedule.later)


def round_curve(schedule: PlannedSchedule, noise_multiplier: float) -> RdpCurve:
    """Return what the round of one release reserves with this noise multiplier."""
    training = PoissonSampledGaussian(
        noise_multiplier=noise_multiplier, sample_rate=schedule.sample_rate, steps=schedule.steps
    )
    return total_curve(schedule.beside) + curve_of(training)


def _all_pass(
    release: RdpCurve,
    caps: BudgetCaps,
    settings: AccountSettings,
    *,
    releases: int,
    releases_per_period: int,
    later: RdpCurve | None = None,
    slipped: int = 0,
    readings: tuple[RdpCurve, RdpCurve] = (RdpCurve.zero(), RdpCurve.zero()),
) -> bool:
    """Say whether so many releases of one cost, and the readings, pass the filters of the lifetime and of a period.

    Args:
        release: what each reserves.
        caps: of both.
        settings: how their accounts are opened.
        releases: over the lifetime.
        releases_per_period: in a period.
        later: what each charges afterwards.
        slipped: how many of the period before may charge ``later`` in this one.
        readings: what readings cost over the lifetime, and in a period.
    """
    later = RdpCurve.zero() if later is None else later
    for epsilon, delta, count, late, read in (
        (caps.lifetime_epsilon, caps.lifetime_delta, releases, releases, readings[0]),
        (
            caps.period_epsilon,
            caps.period_delta,
            releases_per_period,
            releases_per_period + slipped,
            readings[1],
        ),
    ):
        spent = release * (count - 1) + later * late + read
        if not settings.opened(epsilon, delta, release).admits(spent, release):
            return False
    return True


def _refuse(schedule: PlannedSchedule) -> None:
    caps = schedule.caps
    if schedule.relation != NeighboringRelation.ADD_OR_REMOVE_ONE:
        raise CalibrationError(
            f"a claim under {schedule.relation} was asked for; the accounting is for add_or_remove_one only, "
            "and replacing a user would cost more than it says"
        )
    if schedule.declared_users < 1 or schedule.releases < 1 or schedule.releases_per_period < 1:
        raise CalibrationError("declared users, releases and releases per period must each be at least 1")
    for name, epsilon, delta in (
        ("period", caps.period_epsilon, caps.period_delta),
        ("lifetime", caps.lifetime_epsilon, caps.lifetime_delta),
    ):
        if delta >= 1 / schedule.declared_users:
            raise CalibrationError(
                f"the {name} delta is {delta:g}; it must be below 1/{schedule.declared_users}, "
                "else publishing one user's data at random would meet it"
            )
        if not SMALLEST_EPSILON <= epsilon <= LARGEST_EPSILON:
            raise CalibrationError(
                f"the {name} epsilon is {epsilon:g}; allowed is {SMALLEST_EPSILON:g} to {LARGEST_EPSILON:g}"
            )
    if not 0 < schedule.sample_rate <= 1:
        raise CalibrationError(f"the sample rate is {schedule.sample_rate:g}; allowed is above 0, at most 1")
    cohort = schedule.sample_rate * schedule.declared_users
    empty = (
        math.exp(schedule.declared_users * math.log1p(-schedule.sample_rate))
        if schedule.sample_rate < 1
        else 0.0
    )
    if empty > LARGEST_EMPTY_PROBABILITY:
        raise CalibrationError(
            f"the sample rate {schedule.sample_rate:g} of {schedule.declared_users} users expects {cohort:.3g} "
            f"a step, and a step with nobody has probability {empty:.2g}; raise the rate until that is at most "
            f"{LARGEST_EMPTY_PROBABILITY:g}"
        )
