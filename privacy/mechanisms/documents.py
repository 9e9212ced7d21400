"""Mechanism events: every kind of private read, as a frozen value with a versioned JSON document.

The ledger stores these events; an (ε, δ) is always derived from them. The contract is the one of
dp_accounting's events: types are never removed, parameters are only added as optional ones, meanings never
change, and an event this version does not know is refused (``UnknownMechanismError``), never skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from privacy.errors import UnknownMechanismError
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.noisy_comparison import NoisyComparison
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.private_read import read_document
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.mechanisms.selection import PureSelection, RepeatAndSelect
from privacy.mechanisms.tenant_gaussian import TenantGaussian

if TYPE_CHECKING:
    from collections.abc import Mapping

Mechanism = (
    PoissonSampledGaussian
    | Gaussian
    | PureSelection
    | RepeatAndSelect
    | TenantGaussian
    | PartitionSelection
    | NoisyComparison
    | ExponentialChoice
)

_TYPES: Final[dict[str, type[Mechanism]]] = {
    one.kind: one
    for one in (
        PoissonSampledGaussian,
        Gaussian,
        PureSelection,
        RepeatAndSelect,
        TenantGaussian,
        PartitionSelection,
        NoisyComparison,
        ExponentialChoice,
    )
}


def to_document(mechanism: Mechanism) -> dict[str, object]:
    """Return the JSON document of a mechanism, with type, version, privacy unit and neighboring relation.

    Raises:
        UnknownMechanismError: the type is not one that can be read back.
    """
    if type(mechanism) not in _TYPES.values():
        raise UnknownMechanismError(
            f"the mechanism type {type(mechanism).__name__} is not known; allowed are {', '.join(_TYPES)}"
        )
    return mechanism.to_document()


def from_document(document: Mapping[str, object]) -> Mechanism:
    """Read a mechanism back from ``to_document``'s form.

    Raises:
        UnknownMechanismError: the type, version, unit, relation, a field or a value is not known to this
            version.
    """
    return read_document(document, _TYPES)
