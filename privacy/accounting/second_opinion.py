"""dp_accounting's figures for our events: a second opinion for `discreet budget verify` and for tests.

Its fractional orders bound from above only, so curves are compared at whole orders, where both are exact. Its
privacy loss distributions (PLD) price every kind of mechanism and their compositions a second way, by convolution
instead of moments; that figure is a proved bound for parameters fixed in advance and never admits anything. Nothing
here uses our own accountant: only the events' parameters are read.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import Any, Final

import dp_accounting
from dp_accounting import rdp
from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as distribution

from privacy.accounting.curve import ORDERS
from privacy.mechanisms.documents import Mechanism
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.noisy_comparison import NoisyComparison
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.mechanisms.selection import PureSelection, RepeatAndSelect, TrialsDistribution
from privacy.mechanisms.tenant_gaussian import TenantGaussian

WHOLE_ORDERS: Final = tuple(int(order) for order in ORDERS if order.is_integer())
AGREEMENT: Final = 1e-6  # largest relative distance of two exact evaluations
PLD_INTERVAL: Final = 1e-4
PLD_DELTA: Final = 1e-6  # at which single mechanisms are compared, plus their own
SLACK: Final = 1e-10  # largest absolute one: dp_accounting loses digits where a divergence is near 0


def dp_event_of(mechanism: Mechanism) -> Any:  # noqa: PLR0911  # one for each kind
    """Return the dp_accounting event of a mechanism."""
    if isinstance(mechanism, PoissonSampledGaussian):
        step = dp_accounting.PoissonSampledDpEvent(
            mechanism.sample_rate, dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
        )
        return dp_accounting.SelfComposedDpEvent(step, mechanism.steps)
    if isinstance(mechanism, Gaussian):
        return dp_accounting.SelfComposedDpEvent(
            dp_accounting.GaussianDpEvent(mechanism.noise_multiplier), mechanism.count
        )
    if isinstance(mechanism, NoisyComparison):
        # a user is in one look alone, so all looks are one Gaussian
        return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if isinstance(mechanism, TenantGaussian):
        return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if isinstance(mechanism, PartitionSelection):
        # its δ' is no event in this version of dp_accounting: see ``_delta_of`` and the PLD
        return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if isinstance(mechanism, ExponentialChoice):
        # an exponential mechanism of range ε is ε²/8-zCDP; that it is ε-DP besides: see ``divergences_of``
        return dp_accounting.dp_event.ZCDpEvent(mechanism.epsilon**2 / 8)
    if isinstance(mechanism, PureSelection):
        # an ε-DP mechanism is a post-processing of binary randomized response with the same ε
        return dp_accounting.dp_event.RandomizedResponseDpEvent(2 / (1 + math.exp(mechanism.epsilon)), 2)
    base = dp_accounting.ComposedDpEvent([dp_event_of(one) for one in mechanism.base])
    shape = math.inf if mechanism.distribution is TrialsDistribution.POISSON else 1.0
    return dp_accounting.dp_event.RepeatAndSelectDpEvent(base, mechanism.mean_trials, shape)


@lru_cache(maxsize=4096)
def divergences_of(mechanism: Mechanism) -> tuple[float, ...]:
    """Return dp_accounting's Rényi divergences (nats) at ``WHOLE_ORDERS``.

    Raises:
        ValueError: an order did not converge.
    """
    if isinstance(mechanism, ExponentialChoice):
        pure = divergences_of(PureSelection(epsilon=mechanism.epsilon))
        return tuple(
            map(min, pure, _divergences(mechanism, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE))
        )
    relation = (
        dp_accounting.NeighboringRelation.REPLACE_ONE  # the one its randomized response is exact for
        if isinstance(mechanism, PureSelection)
        else dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    return _divergences(mechanism, relation)


def _divergences(mechanism: Mechanism, relation: Any) -> tuple[float, ...]:
    accountant = rdp.RdpAccountant(list(WHOLE_ORDERS), relation)
    accountant.compose(dp_event_of(mechanism))
    values = tuple(float(value) for value in accountant._rdp)  # noqa: SLF001  # it has no public accessor
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"dp_accounting excluded an order of {mechanism.kind}")
    return values


def disagreement(mechanism: Mechanism, at_order: dict[int, float], delta: float = 0.0) -> str | None:
    """Say where values at ``WHOLE_ORDERS`` (nats) differ from dp_accounting's; None when they agree.

    A selection over repeated runs is minimised over our finer grid, so there our value may be lower than
    theirs.

    Args:
        mechanism: what is priced.
        at_order: our values.
        delta: of our price, beside the divergences.
    """
    if not math.isclose(delta, _delta_of(mechanism), rel_tol=AGREEMENT, abs_tol=0.0):
        return f"delta: {delta:.9g} here, {_delta_of(mechanism):.9g} by the event"
    for order, theirs in zip(WHOLE_ORDERS, divergences_of(mechanism), strict=True):
        ours = at_order[order]
        too_high = ours > theirs * (1 + AGREEMENT) + SLACK
        too_low = ours < theirs * (1 - AGREEMENT) - SLACK and not isinstance(mechanism, RepeatAndSelect)
        if too_high or too_low:
            return f"order {order}: {ours:.9g} here, {theirs:.9g} by dp_accounting"
    return None


def pld_epsilon(mechanisms: Counter[Mechanism], delta: float, *, interval: float = PLD_INTERVAL) -> float:
    """Return dp_accounting's PLD ε of a multiset of mechanisms.

    Exact up to the grid for Gaussians, sampled or not, and for pure selections. Of a selection over repeated runs no
    privacy loss distribution is known: it enters as the worst mechanism with the (ε, δ) that its Rényi divergences
    prove, at half of ``delta`` for all of them together, so that the figure stays a bound (``pld_is_exact``). Nor is
    there one that is worst among exponential mechanisms: such a choice enters as the worst ε-DP mechanism.

    Args:
        mechanisms: what was charged, and how often.
        delta: of the figure.
        interval: of the grid of losses; errors grow with it and with the number of compositions.
    """
    loose = sum(count for one, count in mechanisms.items() if isinstance(one, RepeatAndSelect))
    share = delta / (2 * loose) if loose else 0.0
    total = None
    for mechanism, count in mechanisms.items():
        own = share if isinstance(mechanism, RepeatAndSelect) else 0.0
        losses = _losses(mechanism, interval, own).self_compose(count)
        total = losses if total is None else total.compose(losses)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


def pld_is_exact(mechanisms: Counter[Mechanism]) -> bool:
    """Say whether the PLD figure is exact up to its grid, so that one above ours proves an undercharge."""
    return not any(isinstance(one, RepeatAndSelect | ExponentialChoice) for one in mechanisms)


def compared_at(mechanism: Mechanism) -> float:
    """Return the δ at which a mechanism alone is compared: ``PLD_DELTA`` for its losses, and its own beside them."""
    return PLD_DELTA + _delta_of(mechanism)


def undercharge(mechanism: Mechanism, epsilon: float) -> str | None:
    """Say when dp_accounting's PLD asks more for a mechanism than ``epsilon``, our figure at ``compared_at``."""
    alone = Counter([mechanism])
    if not pld_is_exact(alone):
        return None  # its divergences were compared, see ``disagreement``
    # A coarse grid, made coarser where ε is out of all bounds, so that the distribution stays small.
    delta = compared_at(mechanism)
    second = pld_epsilon(alone, delta, interval=max(1e-3, epsilon / 20_000))
    if second <= epsilon * (1 + 1e-3) + 0.01 + 1e-3 * epsilon:
        return None
    return f"dp_accounting's PLD says {second:.6g} at delta {delta:g}, more than {epsilon:.6g} here"


def _delta_of(mechanism: Mechanism) -> float:
    """Return how probably the divergences of a mechanism do not hold."""
    return mechanism.delta if isinstance(mechanism, PartitionSelection) else 0.0


@lru_cache(maxsize=1024)
def _losses(mechanism: Mechanism, interval: float, delta: float) -> Any:
    """Return the privacy loss distribution of a mechanism; ``delta`` is what a selection over runs may use up."""
    grid = {"value_discretization_interval": interval}
    if isinstance(mechanism, PoissonSampledGaussian):
        step = distribution.from_gaussian_mechanism(
            mechanism.noise_multiplier, sampling_prob=mechanism.sample_rate, **grid
        )
        return step.self_compose(mechanism.steps)
    if isinstance(mechanism, Gaussian):
        statistic = distribution.from_gaussian_mechanism(
            mechanism.standard_deviation, sensitivity=mechanism.sensitivity, **grid
        )
        return statistic.self_compose(mechanism.count)
    if isinstance(mechanism, TenantGaussian | NoisyComparison):
        return distribution.from_gaussian_mechanism(mechanism.noise_multiplier, **grid)
    if isinstance(mechanism, PartitionSelection):
        noise = distribution.from_gaussian_mechanism(mechanism.noise_multiplier, **grid)
        failure = common.DifferentialPrivacyParameters(0.0, mechanism.delta)
        return noise.compose(distribution.from_privacy_parameters(failure, **grid))
    if isinstance(mechanism, PureSelection | ExponentialChoice):
        worst = common.DifferentialPrivacyParameters(mechanism.epsilon, 0.0)
        return distribution.from_privacy_parameters(worst, **grid)
    accountant = rdp.RdpAccountant()
    accountant.compose(dp_event_of(mechanism))
    proved = common.DifferentialPrivacyParameters(float(accountant.get_epsilon(delta)), delta)
    return distribution.from_privacy_parameters(proved, **grid)
