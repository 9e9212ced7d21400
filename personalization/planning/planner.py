"""Choose what to train from public numbers alone, or decline.

The law of utility under user-level privacy is one number, a release's clarity,

    S = N·ρ·μ/√d,    μ = √steps · sample_rate / noise_multiplier  (full batch: √steps / noise_multiplier),

with N a public lower bound on the users, ρ the alignment of clipped user gradients and d the trained
parameters. So the planner takes the largest adapter that still has a comfortable S, and declines when even the
smallest has too little, unless a vote on style leads the release: then next to nothing of the training is released.
In the model's public metric (``training.metric``) the gradients stay aligned (ρ of 0.55 to 0.6 over a whole release,
against 0.25 for Adam), a larger damping does what a smaller rank did, and better, and the steps are as long as N·μ
allows; the constants below were fitted there (tests/benchmarks/RESULTS.md, quality).

Everything here comes from the policy, the base model's shape and the line's public history: no count of
events, no loss, no cohort size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from personalization.planning.model_shape import ModelShape
from personalization.planning.plan import ALL_LINEAR, FEED_FORWARD, Family, Subspace, TrainingPlan
from privacy.accounting.calibration import calibrate_policy, style_vote_of
from privacy.accounting.forecast import ALIGNMENT, SMALLEST_CLARITY, clarity, mu_of
from privacy.errors import CalibrationError
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.policy.values import DataPurpose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from privacy.policy.values import TenantPrivacyPolicy

ALIGNMENT_OUTSIDE = 0.25  # with Adam in the numbers themselves; 0.18 to 0.31 was measured on three tenants
EARLY_ALIGNMENT = 0.85  # in the first steps, measured on one tenant
COMFORTABLE_CLARITY = 0.3
# With N·μ of a release: the damping is DAMPING/(N·μ), the travel TRAVEL·√(N·μ), both within their bounds.
DAMPING = 30.0
DAMPINGS = (0.05, 3.0)
TRAVEL = 0.55
TRAVELS = (3.5, 9.0)
SCALED_LAYERS = 0.25  # share of the layers, the upper ones, where users say how strongly a public part acts
FEWEST_SCALED_STEPS = 4  # of a plan that spends one of them on that
LARGEST_RATE = 0.65  # of a Newton step; longer ones overshoot, as Newton's method does far from the minimum


class DeclineReason(StrEnum):
    """Why nothing is planned."""

    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    COHORT_TOO_SMALL = "cohort_too_small"
    SIGNAL_TOO_SMALL = "signal_too_small"


@dataclass(frozen=True, kw_only=True)
class Declined:
    """Nothing is trained and nothing is spent; the reason is public."""

    code: DeclineReason
    reason: str
    clarity: float | None = None  # S, where it was the reason


@dataclass(frozen=True, kw_only=True)
class PlannerSettings:
    """Public limits of the fleet: what training may cost, and where the signal is too small.

    Attributes:
        max_top_layers: most adapted layers; the frozen layers below are run once per example. In the subspace of
            public gradients the last layer holds nearly all of a user's gradient.
        ranks: ranks to choose from, at most what servers allow.
        families: families to choose from.
        travels: steps × learning rate per family (a step that scales a public part counts, and travels nowhere):
            how far Adam may move one number in a release. Fewer steps take larger ones, so that a short release gets
            as far as a long one.
        clipping_norms: largest clipping norm per family, about the length of one user's gradient. A norm far
            above it would add noise for gradients that no user has; the policy's own norm is used where it is
            smaller.
        subspace: where the frozen factors of ``core`` and ``b_only`` come from.
        public_clipping_norm: the largest clipping norm in the subspace ``public_gradients``.
        shrink: whether the released change is shrunk toward its start by ``james_stein``.
        label_shortlist: size of the training softmax in the public metric; 0 takes the whole vocabulary.
        max_tokens: truncation length of one example.
        comfortable_clarity: the largest adapter with at least this S is taken.
        smallest_clarity: below this S the planner declines, unless the release's vote on style leads it.
    """

    max_top_layers: int = 1
    ranks: tuple[int, ...] = (16,)
    families: tuple[Family, ...] = (Family.CORE,)
    travels: tuple[tuple[Family, float], ...] = ((Family.CORE, 2.0), (Family.B_ONLY, 0.2), (Family.FULL, 0.1))
    clipping_norms: tuple[tuple[Family, float], ...] = (
        (Family.CORE, 0.01),
        (Family.B_ONLY, 0.1),
        (Family.FULL, 0.1),
    )
    subspace: Subspace = Subspace.PUBLIC_GRADIENTS
    public_clipping_norm: float = 1.0
    shrink: bool = False
    label_shortlist: int = 16_384
    max_tokens: int = 96
    comfortable_clarity: float = COMFORTABLE_CLARITY
    smallest_clarity: float = SMALLEST_CLARITY


def clarity_of(plan: TrainingPlan, declared_users: int, parameters: int) -> float:
    """Return S of a plan: the expected length of the summed signal over that of the summed noise."""
    return clarity(
        users=declared_users,
        alignment=ALIGNMENT if plan.damping > 0 else ALIGNMENT_OUTSIDE,
        mu=mu_of(plan, plan.noise_multiplier),
        parameters=parameters,
    )


def james_stein(expected: float) -> float:
    """Return the factor that minimizes the expected error of a change whose length is ``expected`` times its noise's.

    The noise variance is public, so the factor costs nothing. S is a lower bound here: ``ALIGNMENT`` is the alignment
    late in training, while the first steps, which move most, were measured at 0.85 to 0.88; hence the ratio of both.
    """
    clear = expected * (EARLY_ALIGNMENT / ALIGNMENT)
    return clear**2 / (1.0 + clear**2)


def propose(
    policy: TenantPrivacyPolicy,
    shape: ModelShape,
    *,
    line_rank: int | None = None,
    settings: PlannerSettings | None = None,
) -> TrainingPlan | Declined:
    """Return the plan of the next release, or why there is none.

    Args:
        policy: the tenant's newest policy.
        shape: widths of the base model.
        line_rank: the line's rank, once a version was published; it never changes along a line.
        settings: public limits of the fleet.

    Raises:
        CalibrationError: no sound noise multiplier meets the policy.
    """
    limits = settings or PlannerSettings()
    if DataPurpose.TRAINING not in policy.purposes:
        return Declined(
            code=DeclineReason.PURPOSE_NOT_ALLOWED,
            reason="The tenant's policy does not name training as a purpose.",
        )
    if policy.declared_users < policy.minimum_cohort:
        return Declined(
            code=DeclineReason.COHORT_TOO_SMALL,
            reason=(
                f"The tenant declares {policy.declared_users} users; its policy trains on "
                f"{policy.minimum_cohort} or more."
            ),
        )
    noise_multiplier = calibrate_policy(policy)
    best: tuple[float, TrainingPlan] | None = None
    for family, rank, top_layers in _candidates(shape, limits, line_rank):
        in_metric = family is Family.CORE and limits.subspace is Subspace.PUBLIC_GRADIENTS and top_layers == 1
        strength = policy.declared_users * mu_of(policy, noise_multiplier)
        travel = _within(TRAVELS, TRAVEL * math.sqrt(strength)) if in_metric else dict(limits.travels)[family]
        plan = TrainingPlan(
            family=family,
            rank=rank,
            alpha=float(rank),
            target_modules=FEED_FORWARD if in_metric else ALL_LINEAR,
            top_layers=top_layers,
            mechanism=PoissonSampledGaussian(
                steps=policy.steps,
                sample_rate=policy.sample_rate,
                noise_multiplier=noise_multiplier,
                clipping_norm=min(policy.clipping_norm, _clipping_norm(limits, family)),
                contribution_bound=policy.contribution_bound,
            ),
            expected_cohort=policy.expected_cohort,
            learning_rate=min(LARGEST_RATE, travel / policy.steps) if in_metric else travel / policy.steps,
            max_tokens=limits.max_tokens,
            subspace=limits.subspace,
            damping=_within(DAMPINGS, DAMPING / strength) if in_metric else 0.0,
            label_shortlist=limits.label_shortlist if in_metric else 0,
            scaled_layers=_scaled_layers(policy, shape) if in_metric else 0,
        )
        expected = clarity_of(plan, policy.declared_users, trained_parameters(plan, shape))
        if limits.shrink:
            plan = replace(plan, shrinkage=james_stein(expected))
        if expected >= limits.comfortable_clarity:
            return plan
        if best is None or expected > best[0]:
            best = (expected, plan)
    vote = style_vote_of(policy)
    if best is not None and best[0] < limits.smallest_clarity and vote is not None and vote.leads:
        # The card is worth its round; of a change that is mostly noise next to nothing is released.
        return replace(best[1], shrinkage=james_stein(best[0]), scaled_layers=0)
    if best is None or best[0] < limits.smallest_clarity:
        expected = 0.0 if best is None else best[0]
        return Declined(
            code=DeclineReason.SIGNAL_TOO_SMALL,
            reason=(
                f"The expected signal-to-noise S is {expected:.3f}; below {limits.smallest_clarity:g} a release "
                "is mostly noise. More declared users or a larger epsilon would raise it."
            ),
            clarity=expected,
        )
    return best[1]


def decline_of(policy: TenantPrivacyPolicy) -> str | None:
    """Return why no release of a new line would be planned under a policy, whatever the base; ``None`` where one would.

    A release trains as many numbers of every base that is at least as wide as the largest rank, which all are that
    serve; so who sets a policy can be told before there is a base.
    """
    width = max(PlannerSettings().ranks)
    any_base = ModelShape(layers=1, hidden=width, query=width, key_value=width, intermediate=width)
    try:
        plan = propose(policy, any_base)
    except CalibrationError as error:
        return str(error)
    return plan.reason if isinstance(plan, Declined) else None


def trained_parameters(plan: TrainingPlan, shape: ModelShape) -> int:
    """Return d, the number of trained parameters of a plan on a base of this shape."""
    per_layer = 0
    for module in plan.target_modules:
        inputs, outputs = shape.linear(module)
        if plan.family is Family.CORE:
            per_layer += min(plan.rank, inputs, outputs) ** 2
        elif plan.family is Family.B_ONLY:
            per_layer += plan.rank * outputs
        else:
            per_layer += plan.rank * (inputs + outputs)
    return per_layer * min(plan.top_layers, shape.layers)


def _scaled_layers(policy: TenantPrivacyPolicy, shape: ModelShape) -> int:
    if not policy.styles or policy.steps < FEWEST_SCALED_STEPS:
        return 0
    return math.ceil(SCALED_LAYERS * shape.layers)


def _within(bounds: tuple[float, float], value: float) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _clipping_norm(limits: PlannerSettings, family: Family) -> float:
    public = limits.subspace is Subspace.PUBLIC_GRADIENTS and family is Family.CORE
    return limits.public_clipping_norm if public else dict(limits.clipping_norms)[family]


def _candidates(
    shape: ModelShape, limits: PlannerSettings, line_rank: int | None
) -> Iterator[tuple[Family, int, int]]:
    """Yield (family, rank, top layers) from the most trained parameters to the fewest."""
    ranks = limits.ranks if line_rank is None else (line_rank,)
    depth = min(limits.max_top_layers, shape.layers)
    depths = sorted({depth, max(1, depth // 2), 1}, reverse=True)
    options = [(family, rank, top) for family in limits.families for rank in ranks for top in depths]

    def size(option: tuple[Family, int, int]) -> int:
        family, rank, top = option
        widths = [shape.linear(module) for module in ALL_LINEAR]
        if family is Family.CORE:
            return top * rank**2 * len(widths)
        return top * rank * sum(out + (inp if family is Family.FULL else 0) for inp, out in widths)

    yield from sorted(options, key=size, reverse=True)
