"""A comparison of two arms by users' reactions, looked at several times, for the price of one Gaussian.

**Guarantee.** Each user belongs to one arm and to one look (that of their first reaction) and adds one vector of L2
norm at most 1, in whole units, to that look's sum. So adding or removing one user changes the released sums of one look
alone, by at most 1, and every look's sums have Gaussian noise of standard deviation ``noise_multiplier``: all looks
together are one Gaussian mechanism of that noise, by parallel composition, however many there are. The looks are taken
at public times; a look that was closed by a count would tell that count.

**What the caller must have done**: the arm comes from the salted draw of the user's own name; the value of a user is
the mean of that user's own first few reactions; the arm's share and the centre are public (a released acceptance, or
one half). What is compared are four sums: of y = ±w·(x − c), which is positive where the candidate is taken better; of
its square; of the users; and of the arms' signs, which says whether one arm answers more often than its share. ``w`` is
one half over the share of the user's arm.

``personalization.rollouts.reactions`` keeps what each user adds, ``personalization.registry.comparisons`` charges and
takes the looks, and ``personalization.rollouts.comparing`` decides from what they told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from privacy.mechanisms.private_read import (
    PrivateRead,
    ReadPurpose,
    checked,
    checked_count,
    gaussian_divergences,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIT_BITS: Final = 20
UNIT: Final = 1 << UNIT_BITS  # whole units in a vector of length 1
SCALE: Final = math.sqrt(1.75)  # length of (g, g/2, g/2, g/2), in g


class Sums(NamedTuple):
    """Four sums over the users of one look, or one user's part of them, in whole units of ``1 / UNIT``."""

    effect: int
    square: int
    users: int
    sign: int


@dataclass(frozen=True, kw_only=True)
class NoisyComparison(PrivateRead):
    """One comparison; see the module for the guarantee and for what must hold of each user's part.

    Attributes:
        noise_multiplier: standard deviation of the noise of each sum, over the sensitivity of all four together.
        looks: how many times the sums are released at most.
        purpose: why the data is read.
    """

    kind: ClassVar[str] = "noisy_comparison"

    noise_multiplier: float
    looks: int
    purpose: ReadPurpose = ReadPurpose.KPI

    def __post_init__(self) -> None:
        checked("noise_multiplier", self.noise_multiplier, 0.05, 1e4)
        checked_count("looks", self.looks, 64)

    @property
    def noise_units(self) -> float:
        """Parameter of the noise in units of ``1 / UNIT``; exact."""
        return math.ldexp(self.noise_multiplier, UNIT_BITS)

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price: α/2σ², once for all looks."""
        return gaussian_divergences(self.noise_multiplier, orders)


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The public numbers of a comparison.

    Attributes:
        share: of the subjects that get the candidate, above 0 and below 1.
        centre: acceptance that values are counted from, 0 to 1: the newest released one, or one half.
    """

    share: float
    centre: float = 0.5

    def __post_init__(self) -> None:
        checked("share", self.share, 0.001, 0.999)
        checked("centre", self.centre, 0.01, 0.99)

    @property
    def reach(self) -> float:
        """Return g, the largest |y|."""
        return max(self.centre, 1 - self.centre) / (2 * min(self.share, 1 - self.share))

    @property
    def length(self) -> float:
        """Return the bound on a user's vector before it is scaled to length 1."""
        return SCALE * self.reach

    def part(self, value: float, *, candidate: bool) -> Sums:
        """Return what one user adds: whole units, of length at most ``UNIT``, whatever the value.

        Args:
            value: mean of the user's own reactions, 0 (rejected) to 1 (accepted); what is outside is clamped, and what
                is no number counts as the centre.
            candidate: whether the user's arm is the candidate's.
        """
        held = min(max(value, 0.0), 1.0) if math.isfinite(value) else self.centre
        weight = 1 / (2 * (self.share if candidate else 1 - self.share))
        y = (1 if candidate else -1) * weight * (held - self.centre)
        half = self.reach / 2
        parts = (y, y * y / (2 * self.reach), half, half if candidate else -half)
        # Cut towards 0, so that rounding never makes a vector longer.
        return Sums(*(int(math.ldexp(part / self.length, UNIT_BITS)) for part in parts))
