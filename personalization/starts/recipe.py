"""The public numbers of a meta start, and their defaults; ``averaging`` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Weighting(StrEnum):
    """How much each tenant counts."""

    EQUAL = "equal"
    SIGNAL = "signal"  # by the public signal-to-noise S of its release: S² ÷ (1 + S²)


class Order(StrEnum):
    """In which order tenants enter one generation."""

    TOGETHER = "together"  # one step towards the weighted mean
    CLEAREST_FIRST = "clearest_first"  # one Reptile step per tenant, the clearest release first


@dataclass(frozen=True, kw_only=True)
class MetaRecipe:
    """Public numbers of one computation of the meta start.

    Attributes:
        minimum_tenants: fewest different tenants that may stand behind a meta start.
        max_delta_norm: L2 bound on one tenant's contribution ``Δₜ − θ`` (of the ``B`` factors, all layers).
        outer_rate: η of the outer update, how far a generation moves from the one before; 1 makes it an average.
        passes: how often one generation goes through all contributions; more than one matters with η < 1.
        weighting: how much each tenant counts.
        order: in which order tenants enter.
        smallest_signal: only releases with at least this public signal-to-noise S take part.
        most_tenants: at most so many, the clearest first; None takes all.
    """

    minimum_tenants: int = 3
    max_delta_norm: float = 30.0
    outer_rate: float = 0.5
    passes: int = 1
    weighting: Weighting = Weighting.EQUAL
    order: Order = Order.TOGETHER
    smallest_signal: float = 0.0
    most_tenants: int | None = None

    def __post_init__(self) -> None:
        checks = (
            ("minimum_tenants", self.minimum_tenants, self.minimum_tenants >= 2, "at least 2"),
            ("max_delta_norm", self.max_delta_norm, self.max_delta_norm > 0, "above 0"),
            ("outer_rate", self.outer_rate, 0 < self.outer_rate <= 1, "above 0, at most 1"),
            ("passes", self.passes, 1 <= self.passes <= 1000, "1 to 1,000"),
            ("smallest_signal", self.smallest_signal, self.smallest_signal >= 0, "0 or more"),
            (
                "most_tenants",
                self.most_tenants,
                self.most_tenants is None or self.most_tenants >= self.minimum_tenants,
                "at least minimum_tenants",
            ),
        )
        for name, value, ok, allowed in checks:
            if not ok:
                raise ValueError(f"{name} is {value}; allowed is {allowed}")
