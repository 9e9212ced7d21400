"""Privacy filters: admit a mechanism only while a proved bound holds, whatever earlier releases showed.

Two rules, each frozen when an account is opened and recorded with it:

*Fixed order* (default). One order α* per account; admit while Σ RDP(α*) ≤ B(α*) = ε - log(1 - 1/α*) +
log(δα*)/(α*-1). Rényi filters of a fixed order are proved under fully adaptive choice of mechanisms
(Feldman and Zrnic, 2008.11193; Whitehouse et al., 2309.05901): the whole stream is (α*, B)-RDP, hence (ε,
δ)-DP.

*Grid with a union bound*. A frozen set G of orders; admit while for some α in G, Σ RDP(α) ≤ B(α) at δ/|G|.
For each α stop the stream where α's own budget would be passed; the stopped stream has hockey-stick loss at
most δ/|G|. The real stream never passed the order that admitted its last mechanism, so its loss is at most
the sum over G, which is δ.

Taking the best order afterwards, or a PLD filter, is not covered by a proof under adaptive parameters
(2602.06756, 2602.15815) and is never used to admit. All comparisons are between whole numbers: costs are
rounded up and budgets down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from privacy.accounting.composition import conversion_term
from privacy.accounting.curve import ORDERS, RdpCurve
from privacy.mechanisms.rounding import PICO

UNION_GRID: Final[tuple[float, ...]] = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0)


class FilterRule(StrEnum):
    """Which proof an account rests on."""

    FIXED_ORDER = "fixed_order"
    GRID_UNION = "grid_union"


@dataclass(frozen=True, kw_only=True)
class BudgetCaps:
    """The two limits of a tenant: per period (a rate) and over its lifetime (the guarantee)."""

    period_epsilon: float
    period_delta: float
    lifetime_epsilon: float
    lifetime_delta: float

    def __post_init__(self) -> None:
        for name in ("period", "lifetime"):
            checked_target(getattr(self, f"{name}_epsilon"), getattr(self, f"{name}_delta"), name)


@dataclass(frozen=True, kw_only=True)
class AccountSettings:
    """How new accounts are opened; it changes nothing for open ones.

    Attributes:
        rule: the proof that admission rests on.
        order: the order of ``FIXED_ORDER``; None takes the one that suits the first request best.
    """

    rule: FilterRule = FilterRule.FIXED_ORDER
    order: float | None = None

    def __post_init__(self) -> None:
        if self.order is not None and self.order not in ORDERS:
            allowed = ", ".join(f"{one:g}" for one in ORDERS)
            raise ValueError(f"order {self.order:g} is not on the grid; allowed are {allowed}")

    def orders_for(self, epsilon: float, delta: float, recipe: RdpCurve) -> tuple[float, ...]:
        """Return the orders to freeze for an account of this target.

        Args:
            epsilon: cap of the account.
            delta: δ of the account.
            recipe: curve of the first (public) request; the fixed order is the one at which it fits most
                often.
        """
        if self.rule is FilterRule.GRID_UNION:
            return UNION_GRID
        return (self.order if self.order is not None else best_order(epsilon, delta, recipe),)


@dataclass(frozen=True, kw_only=True)
class PrivacyFilter:
    """A target (ε, δ) with its rule and frozen orders; pure, the spent curve is the caller's."""

    epsilon: float
    delta: float
    rule: FilterRule
    orders: tuple[float, ...]

    def __post_init__(self) -> None:
        checked_target(self.epsilon, self.delta, "filter")
        if not self.orders or any(order not in ORDERS for order in self.orders):
            raise ValueError(f"orders {self.orders} are not on the grid")
        if self.rule is FilterRule.FIXED_ORDER and len(self.orders) != 1:
            raise ValueError(f"a fixed-order filter has one order, not {len(self.orders)}")

    def budget(self, order: float) -> int:
        """Return B(α) in pico-nats, rounded down; negative when the order cannot reach the target."""
        return budget_at(self.epsilon, self.delta / len(self.orders), order)

    def admits(self, spent: RdpCurve, asked: RdpCurve) -> bool:
        """Say whether ``asked`` may run after ``spent``."""
        total = spent + asked
        return any(total.at(order) <= self.budget(order) for order in self.orders)

    def used_fraction(self, spent: RdpCurve) -> float:
        """Return the spent share of the budget, 0 to 1, at the order with most room."""
        shares = [spent.at(order) / self.budget(order) for order in self.orders if self.budget(order) > 0]
        return min(shares, default=1.0)

    def narrowed_to(self, epsilon: float, delta: float) -> PrivacyFilter:
        """Return a filter for a stricter target at the same frozen orders; a looser target changes nothing.

        Lowering a cap is sound at any time: stopping earlier than the proof allows keeps the proof. Raising
        the cap of an open account is not (the proof fixes it in advance), so the account's own target
        always holds as well.
        """
        return PrivacyFilter(
            epsilon=min(self.epsilon, epsilon),
            delta=min(self.delta, delta),
            rule=self.rule,
            orders=self.orders,
        )


def budget_at(epsilon: float, delta: float, order: float) -> int:
    """Return B(α) in pico-nats, rounded down; negative when the order cannot reach the target."""
    return math.floor((epsilon - conversion_term(order, delta)) * PICO) - 1


def best_order(epsilon: float, delta: float, recipe: RdpCurve) -> float:
    """Return the order at which ``recipe`` fits into (ε, δ) most often; all of it is public."""
    return max(ORDERS, key=lambda order: budget_at(epsilon, delta, order) / max(1, recipe.at(order)))


def checked_target(epsilon: float, delta: float, name: str) -> None:
    """Refuse a target that no filter can enforce.

    Raises:
        ValueError: ε is not in [0.001, 100] or δ not in [1e-30, 0.1].
    """
    if not (isinstance(epsilon, int | float) and math.isfinite(epsilon) and 1e-3 <= epsilon <= 100):
        raise ValueError(f"the {name} epsilon is {epsilon!r}; allowed is a number from 0.001 to 100")
    if not (isinstance(delta, int | float) and math.isfinite(delta) and 1e-30 <= delta <= 0.1):
        raise ValueError(f"the {name} delta is {delta!r}; allowed is a number from 1e-30 to 0.1")
