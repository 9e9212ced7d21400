"""The accountant: mechanism event → RDP curve → (ε, δ).

Each kind of private read prices itself (``privacy.mechanisms``); here prices are rounded, composed and turned
into ε.

Conversion (Canonne, Kamath and Steinke, arXiv 2004.00010, Proposition 12):

    ε(α) = RDP(α) + log(1 - 1/α) - log(δα)/(α-1),

δ less what selections took of it: a curve that holds but for an event of probability δ' gives (ε, δ + δ').

Which order may be used when is the matter of ``privacy.accounting.filters``. Rounding is always upwards.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from privacy.accounting.curve import DELTA_UNITS, ORDERS, RdpCurve
from privacy.mechanisms.rounding import PICO, rounded_up

if TYPE_CHECKING:
    from privacy.mechanisms.documents import Mechanism

ACCOUNTANT: Final = "discreet-rdp"
ACCOUNTANT_VERSION: Final = "1"


@lru_cache(maxsize=4096)
def curve_of(mechanism: Mechanism) -> RdpCurve:
    """Return the RDP curve of a mechanism, rounded up.

    Raises:
        ValueError: an order did not converge (such an order is refused, not left out).
    """
    return RdpCurve(rounded_up(mechanism.divergences(ORDERS)), delta_units(mechanism.selection_delta))


def delta_units(delta: float) -> int:
    """Return a probability in whole units of 1/``DELTA_UNITS``, rounded up; exact in between."""
    return math.ceil(Fraction(delta) * DELTA_UNITS)


def delta_left(curve: RdpCurve, delta: float) -> float:
    """Return what of δ the selections of a curve leave for the conversion, rounded down; 0 where nothing is left."""
    if not curve.delta:
        return delta
    left = Fraction(delta) - Fraction(curve.delta, DELTA_UNITS)
    return max(0.0, float(left) * (1 - 1e-15))


def total_curve(mechanisms: tuple[Mechanism, ...]) -> RdpCurve:
    """Return the composed curve of several mechanisms: the exact sum of their rounded curves."""
    total = RdpCurve.zero()
    for mechanism in mechanisms:
        total += curve_of(mechanism)
    return total


def conversion_term(order: float, delta: float) -> float:
    """Return log(1 - 1/α) - log(δα)/(α-1), what conversion adds to RDP(α).

    Raises:
        ValueError: δ is not inside (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}; allowed is a number above 0 and below 1")
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def epsilon_at_order(curve: RdpCurve, delta: float, order: float) -> float:
    """Return the ε of a curve at one order; 0 for the empty curve, infinite where selections took all of δ."""
    if curve.is_zero:
        return 0.0
    left = delta_left(curve, delta)
    if left <= 0:
        return math.inf
    return max(0.0, curve.at(order) / PICO * (1 + 1e-15) + conversion_term(order, left) + 1e-12)


def best_epsilon(curve: RdpCurve, delta: float) -> tuple[float, float]:
    """Return the smallest ε over the grid and its order.

    This is a proved bound when the composed parameters were fixed in advance. Under parameters that react
    to earlier releases only the filter's own order is proved: label this figure *non-adaptive* wherever it
    is shown.
    """
    if curve.is_zero:
        return 0.0, ORDERS[0]
    return min((epsilon_at_order(curve, delta, order), order) for order in ORDERS)
