"""dp_accounting's figures for our events: a second opinion for `discreet budget verify` and for tests.

Its fractional orders bound from above only, so curves are compared at whole orders, where both are exact. Its
PLD figure is a proved bound for parameters fixed in advance and never admits anything.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import dp_accounting
from dp_accounting import pld, rdp

from privacy.accounting.curve import ORDERS
from privacy.mechanisms.documents import Mechanism
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.mechanisms.selection import PureSelection, RepeatAndSelect, TrialsDistribution
from privacy.mechanisms.tenant_gaussian import TenantGaussian

if TYPE_CHECKING:
    from collections import Counter

WHOLE_ORDERS: Final = tuple(int(order) for order in ORDERS if order.is_integer())
AGREEMENT: Final = 1e-6  # largest relative distance of two exact evaluations
SLACK: Final = 1e-10  # largest absolute one: dp_accounting loses digits where a divergence is near 0


def dp_event_of(mechanism: Mechanism) -> Any:
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
    if isinstance(mechanism, TenantGaussian):
        return dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
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
    relation = (
        dp_accounting.NeighboringRelation.REPLACE_ONE  # the one its randomized response is exact for
        if isinstance(mechanism, PureSelection)
        else dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    accountant = rdp.RdpAccountant(list(WHOLE_ORDERS), relation)
    accountant.compose(dp_event_of(mechanism))
    values = tuple(float(value) for value in accountant._rdp)  # noqa: SLF001  # it has no public accessor
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"dp_accounting excluded an order of {mechanism.kind}")
    return values


def disagreement(mechanism: Mechanism, at_order: dict[int, float]) -> str | None:
    """Say where values at ``WHOLE_ORDERS`` (nats) differ from dp_accounting's; None when they agree.

    A selection over repeated runs is minimised over our finer grid, so there our value may be lower than
    theirs.
    """
    for order, theirs in zip(WHOLE_ORDERS, divergences_of(mechanism), strict=True):
        ours = at_order[order]
        too_high = ours > theirs * (1 + AGREEMENT) + SLACK
        too_low = ours < theirs * (1 - AGREEMENT) - SLACK and not isinstance(mechanism, RepeatAndSelect)
        if too_high or too_low:
            return f"order {order}: {ours:.9g} here, {theirs:.9g} by dp_accounting"
    return None


def pld_epsilon(mechanisms: Counter[Mechanism], delta: float) -> float | None:
    """Return dp_accounting's PLD ε of a multiset of mechanisms; None where PLD does not cover one of them."""
    accountant = pld.PLDAccountant()
    for mechanism, count in mechanisms.items():
        event = dp_accounting.SelfComposedDpEvent(dp_event_of(mechanism), count)
        if not accountant.supports(event):
            return None
        accountant.compose(event)
    return float(accountant.get_epsilon(delta))
