"""The public lattice on which bounded vectors are summed: whole numbers, so a sum has no order and no rounding error.

The unit is u = C·2⁻²⁰, a power of two below the bound C on one contribution. A contribution of float numbers becomes a
vector of whole ones in three steps, each a function of that contribution alone:

1. scaled to at most C·(1 − 2⁻²⁰) − u·√d/2 (``inner_reach``, in units), where it is longer than that;
2. every number divided by u and rounded to a whole one, which lengthens it by at most √d/2 units;
3. its squares summed up exactly and compared with 2⁴⁰ (``REACH`` squared): **‖z‖₂ ≤ C/u holds for the whole
   numbers that are added, not for floats that stand for them.** Whatever fails counts as zero.

The third step is the guarantee and needs no assumption on floats: squares of whole numbers up to 2²⁰, and
their sums up to 2⁵³, are exact in float64, and a sum beyond that never rounds down to 2⁴⁰. The slack of the first
step only sees to it that the third never fails: norm, factor and product, all in float64 whatever the numbers came
in, err by less than 2⁻²⁰ together for up to 2³⁰ numbers.

So adding or removing one contribution moves an exact sum by at most ``REACH`` units in L2: the charged sensitivity is
C, rounding and float norms included. Sums are int64; they cannot overflow for up to ``MOST_ROWS`` contributions.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from privacy.noise.keystream import Floats, Words

BITS: Final = 20
REACH: Final = 1 << BITS  # the bound C, in units
MOST_ROWS: Final = 1 << (62 - BITS)  # 4.4·10¹² contributions; their sum and its noise stay below 2⁶³

# Noisy sums are rounded to a power of two of units, at least so many bits below the noise's standard deviation.
COARSE_BITS: Final = 8


def unit(bound: float) -> float:
    """Return u, the lattice's spacing for contributions of an L2 norm of at most ``bound``; exact."""
    return math.ldexp(bound, -BITS)


def inner_reach(size: int) -> float:
    """Return to which norm, in units, a contribution of ``size`` numbers is scaled before it is rounded."""
    reach = REACH * (1 - 2.0**-20) - math.sqrt(size) / 2
    if reach <= 0:
        raise ValueError(f"a contribution has {size} numbers; the lattice allows fewer than {4 * REACH**2}")
    return reach


def check_rows(count: int) -> None:
    """Refuse more contributions than an int64 sum can hold.

    Raises:
        ValueError: there are ``MOST_ROWS`` or more.
    """
    if count >= MOST_ROWS:
        raise ValueError(f"{count} users would be summed; an exact sum allows fewer than {MOST_ROWS}")


def on_lattice(vector: Floats, bound: float) -> Words:
    """Return one contribution in whole units, no longer than ``bound``; zero where it is not finite.

    Args:
        vector: one contribution, of any norm.
        bound: C.
    """
    flat = vector.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(float(flat @ flat))
        if not math.isfinite(norm):
            return np.zeros(vector.shape, dtype=np.int64)
        flat *= min(1 / unit(bound), inner_reach(len(flat)) / norm if norm else math.inf)
    np.rint(flat, out=flat)
    if not float(flat @ flat) <= REACH**2:
        return np.zeros(vector.shape, dtype=np.int64)
    return flat.astype(np.int64).reshape(vector.shape)


def coarse_bits(deviation: float) -> int:
    """Return k: noisy sums are released in multiples of 2ᵏ units, as ``privacy.noise.normal`` shows why.

    Args:
        deviation: of the noise, in units.
    """
    return max(0, math.frexp(deviation)[1] - 1 - COARSE_BITS) if deviation > 0 else 0
