"""The tenant-level sum of released adapters: the one read whose unit is a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from privacy.guarantee import PrivacyUnit
from privacy.mechanisms.private_read import PrivateRead, ReadPurpose, checked, gaussian_divergences

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class TenantGaussian(PrivateRead):
    """The sum over tenants of their clipped released adapters, with Gaussian noise: the unit is a tenant.

    It is charged to the fleet's account and never composed with mechanisms whose unit is a user.

    Attributes:
        noise_multiplier: noise standard deviation ÷ clipping norm.
        clipping_norm: L2 bound on one tenant's adapter.
        purpose: why it is read.
    """

    kind: ClassVar[str] = "tenant_gaussian"
    unit: ClassVar[PrivacyUnit] = PrivacyUnit.TENANT

    noise_multiplier: float
    clipping_norm: float
    purpose: ReadPurpose = ReadPurpose.META_START

    def __post_init__(self) -> None:
        checked("noise_multiplier", self.noise_multiplier, 0.05, 1e6)
        checked("clipping_norm", self.clipping_norm, 1e-9, 1e9)

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price: α/2σ²."""
        return gaussian_divergences(self.noise_multiplier, orders)
