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

*Selections* are δ'-approximate: their divergences hold but for an event of probability δ'. An account that admits them
splits its δ when it is opened, and for good: a share for the sum of all δ' (``selection_share``), the rest, δ above,
for the conversion. The stream that stops where either part would be passed holds its divergences but for an event of
probability share·δ, whatever earlier releases showed, for that sum is checked before each mechanism; so both parts
together are (ε, δ). Converting at all of δ until the first selection comes would not be: whether one comes may depend
on what was released.

Taking the best order afterwards, or a PLD filter, is not covered by a proof under adaptive parameters
(2602.06756, 2602.15815) and is never used to admit. All comparisons are between whole numbers: costs are
rounded up and budgets down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from privacy.accounting.composition import conversion_term
from privacy.accounting.curve import DELTA_UNITS, ORDERS, RdpCurve
from privacy.mechanisms.rounding import PICO

# Of δ, in accounts opened from now on; those from before have 0. It costs log(1/0.8)/(α-1) of ε, 0.02 at order 12.
SELECTION_SHARE: Final = 0.2

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
        selection_share: of δ that is kept for selections; 0 admits none, ever.
    """

    rule: FilterRule = FilterRule.FIXED_ORDER
    order: float | None = None
    selection_share: float = SELECTION_SHARE

    def __post_init__(self) -> None:
        if self.order is not None and self.order not in ORDERS:
            allowed = ", ".join(f"{one:g}" for one in ORDERS)
            raise ValueError(f"order {self.order:g} is not on the grid; allowed are {allowed}")
        checked_share(self.selection_share)

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
        delta = conversion_delta(delta, self.selection_share)
        return (self.order if self.order is not None else best_order(epsilon, delta, recipe),)

    def opened(self, epsilon: float, delta: float, recipe: RdpCurve) -> PrivacyFilter:
        """Return the filter of an account of this target that is opened for ``recipe``."""
        return PrivacyFilter(
            epsilon=epsilon,
            delta=delta,
            rule=self.rule,
            orders=self.orders_for(epsilon, delta, recipe),
            selection_share=self.selection_share,
        )


@dataclass(frozen=True, kw_only=True)
class PrivacyFilter:
    """A target (ε, δ) with its rule, frozen orders and share of δ for selections; the spent curve is the caller's."""

    epsilon: float
    delta: float
    rule: FilterRule
    orders: tuple[float, ...]
    selection_share: float = 0.0

    def __post_init__(self) -> None:
        checked_target(self.epsilon, self.delta, "filter")
        if not self.orders or any(order not in ORDERS for order in self.orders):
            raise ValueError(f"orders {self.orders} are not on the grid")
        if self.rule is FilterRule.FIXED_ORDER and len(self.orders) != 1:
            raise ValueError(f"a fixed-order filter has one order, not {len(self.orders)}")
        checked_share(self.selection_share)

    def budget(self, order: float) -> int:
        """Return B(α) in pico-nats, rounded down; negative when the order cannot reach the target."""
        delta = conversion_delta(self.delta, self.selection_share)
        return budget_at(self.epsilon, delta / len(self.orders), order)

    @property
    def selection_budget(self) -> int:
        """The most that the δ' of all selections may add up to, in units of 1/``DELTA_UNITS``, rounded down."""
        return math.floor(Fraction(self.delta) * Fraction(self.selection_share) * DELTA_UNITS)

    def admits(self, spent: RdpCurve, asked: RdpCurve) -> bool:
        """Say whether ``asked`` may run after ``spent``."""
        total = spent + asked
        if total.delta > self.selection_budget:
            return False
        return any(total.at(order) <= self.budget(order) for order in self.orders)

    def used_fraction(self, spent: RdpCurve) -> float:
        """Return the spent share of the budget, 0 to 1, at the order with most room; of δ for selections if more."""
        shares = [spent.at(order) / self.budget(order) for order in self.orders if self.budget(order) > 0]
        selected = spent.delta / self.selection_budget if self.selection_budget else float(spent.delta > 0)
        return max(min(shares, default=1.0), selected)

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
            selection_share=self.selection_share,
        )


def conversion_delta(delta: float, selection_share: float) -> float:
    """Return what of δ converts divergences, rounded down, where a share of it is kept for selections."""
    return (
        delta
        if selection_share == 0
        else float(Fraction(delta) * (1 - Fraction(selection_share))) * (1 - 1e-15)
    )


def checked_share(share: float) -> None:
    """Refuse a share of δ for selections that is not at least 0 and at most a half.

    Raises:
        ValueError: it is not.
    """
    if not (isinstance(share, int | float) and 0 <= share <= 0.5):
        raise ValueError(f"the share of delta for selections is {share!r}; allowed is a number from 0 to 0.5")


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
