"""The vocabulary of a privacy guarantee: unit, relation, sampler, and the (ε, δ) pair with its sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class PrivacyUnit(StrEnum):
    """Whose presence is hidden."""

    USER = "user"  # one user of one tenant, with all interactions, over all releases of that tenant
    TENANT = "tenant"  # one tenant of the fleet, with its released adapter, over all meta starts


# The ledger's chain of the fleet: its unit is a tenant, and no tenant may carry this name.
FLEET: Final = "fleet"


def unit_of_chain(tenant_id: str) -> PrivacyUnit:
    """Return the one unit that a chain of the ledger composes."""
    return PrivacyUnit.TENANT if tenant_id == FLEET else PrivacyUnit.USER


class NeighboringRelation(StrEnum):
    """Which datasets count as neighbors (spelled as in dp_accounting)."""

    ADD_OR_REMOVE_ONE = "add_or_remove_one"


class Sampler(StrEnum):
    """How the units of one step are drawn."""

    POISSON = "poisson"
    NONE = "none"  # every unit takes part


@dataclass(frozen=True, kw_only=True)
class PrivacyGuarantee:
    """A proved upper bound: (``epsilon``, ``delta``) for ``unit`` under ``relation``."""

    epsilon: float
    delta: float
    unit: PrivacyUnit = PrivacyUnit.USER
    relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"epsilon is {self.epsilon}; it must be finite and at least 0")
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta is {self.delta}; it must be in [0, 1)")

    def sentence(self) -> str:
        """Say the guarantee in one sentence, rounded up so that the text never promises more than is proved."""
        shown = math.ceil(self.epsilon * 1000) / 1000
        if self.unit is PrivacyUnit.TENANT:
            return (
                "Adding or removing one tenant of the fleet, with its released adapters, changes the probability of "
                f"any outcome by at most a factor of e^{shown:g} plus {self.delta:g}."
            )
        return (
            f"Adding or removing one {self.unit.value} of the tenant, with all of that {self.unit.value}'s "
            f"interactions, changes the probability of any outcome by at most a factor of e^{shown:g} "
            f"plus {self.delta:g}."
        )
