"""How a price becomes whole numbers: rounded up once, with room for the float evaluation's own errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PICO: Final = 10**12  # whole numbers in one nat
# Rounding errors of the float evaluation stay below 10⁻¹⁰ of the value (log-factorials are exact to 10⁻¹³
# absolute); every price is raised by ten times that.
RELATIVE_ERROR: Final = 1e-9


def rounded_up(divergences: Sequence[float], *, relative_error: float = RELATIVE_ERROR) -> tuple[int, ...]:
    """Round float upper bounds (nats) up to whole pico-nats; a positive price is at least 1.

    Args:
        divergences: proved values before rounding errors; ``relative_error`` is the most they may be off.
        relative_error: is added on top, so that the result bounds the exact value.

    Raises:
        ValueError: a value is NaN, infinite or negative: the order did not converge.
    """
    if any(not math.isfinite(value) or value < 0 for value in divergences):
        raise ValueError("a Rényi order did not converge to a finite value of at least 0")
    return tuple(math.ceil(value * (1 + relative_error) * PICO) + 1 for value in divergences)
