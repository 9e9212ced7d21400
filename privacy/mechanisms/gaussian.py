"""A statistic over users plus Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from privacy.mechanisms.private_read import (
    PrivateRead,
    ReadPurpose,
    checked,
    checked_count,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Gaussian(PrivateRead):
    """A statistic of L2 ``sensitivity`` per user plus Gaussian noise: counts, KPI, drift, private evaluation.

    A reported noisy maximum over k such statistics is this event with ``sensitivity`` scaled by √k (all k
    noisy values could be published).

    Attributes:
        sensitivity: largest L2 change that one user can make, in the statistic's unit.
        standard_deviation: of the noise, in the same unit.
        purpose: why the data is read.
        count: how many such statistics are released.
    """

    kind: ClassVar[str] = "gaussian"

    sensitivity: float
    standard_deviation: float
    purpose: ReadPurpose
    count: int = 1

    def __post_init__(self) -> None:
        checked("sensitivity", self.sensitivity, 1e-9, 1e9)
        checked("standard_deviation", self.standard_deviation, 1e-9, 1e12)
        checked("noise_multiplier", self.noise_multiplier, 0.05, 1e6)
        checked_count("count", self.count, 1_000_000)

    @property
    def noise_multiplier(self) -> float:
        """Noise standard deviation ÷ sensitivity."""
        return self.standard_deviation / self.sensitivity

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price: count·α/2σ²."""
        return [self.count * order / (2 * self.noise_multiplier**2) for order in orders]
