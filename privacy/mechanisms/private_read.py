"""What all kinds of private read have in common: a purpose, a unit, a price, checked numbers and a JSON document.

Every number is checked on construction: it must be a finite, normal, positive float inside a stated range,
so that a NaN, an infinity, a negative or a subnormal cost can never slip past a filter.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from privacy.errors import UnknownMechanismError
from privacy.guarantee import NeighboringRelation, PrivacyUnit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCUMENT_VERSION: Final = 1


class ReadPurpose(StrEnum):
    """Why private data is read; every purpose is charged."""

    TRAINING = "training"
    COHORT_COUNT = "cohort_count"
    EVALUATION = "evaluation"
    KPI = "kpi"
    DRIFT = "drift"
    SELECTION = "selection"
    CLIPPING = "clipping"
    META_START = "meta_start"
    STYLE = "style"


BESIDE_RELEASES: Final = frozenset({ReadPurpose.DRIFT, ReadPurpose.KPI, ReadPurpose.SELECTION})
"""Purposes of charges of which no version comes; whoever counts releases leaves them out."""


@dataclass(frozen=True, kw_only=True)
class PrivateRead(ABC):
    """Base of the frozen values that name one kind of private read each."""

    kind: ClassVar[str]
    unit: ClassVar[PrivacyUnit] = PrivacyUnit.USER  # whose presence the price is about

    @abstractmethod
    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price: an upper bound on the Rényi divergence (nats) at each order, up to rounding errors.

        The bounds hold for both directions of add-or-remove-one unit.
        """

    @property
    def selection_delta(self) -> float:
        """δ' that is charged beside the divergences: they hold but for an event of this probability."""
        return 0.0

    def to_fields(self) -> dict[str, object]:
        """Return the document's fields of this kind; those that are None are left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_fields(cls, document: dict[str, Any]) -> Self:
        """Read ``to_fields``'s form.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a value is not allowed.
        """
        if "purpose" in document:
            document = {**document, "purpose": ReadPurpose(str(document["purpose"]))}
        return cls(**document)

    def to_document(self) -> dict[str, object]:
        """Return the JSON document, with type, version, privacy unit and neighboring relation."""
        return {
            "type": self.kind,
            "version": DOCUMENT_VERSION,
            "unit": self.unit.value,
            "relation": NeighboringRelation.ADD_OR_REMOVE_ONE.value,
            **self.to_fields(),
        }


_Read = TypeVar("_Read", bound=PrivateRead)


def read_document(document: Mapping[str, object], kinds: Mapping[str, type[_Read]]) -> _Read:
    """Read a mechanism of one of ``kinds`` back from ``to_document``'s form.

    Raises:
        UnknownMechanismError: the type, version, unit, relation, a field or a value is not known to this
            version.
    """
    rest = dict(document)
    kind, version = rest.pop("type", None), rest.pop("version", None)
    unit, relation = rest.pop("unit", None), rest.pop("relation", None)
    if kind not in kinds or version != DOCUMENT_VERSION:
        raise UnknownMechanismError(
            f"mechanism type {kind!r} version {version!r} is not known; upgrade to a version that knows it"
        )
    mechanism = kinds[str(kind)]
    if unit != mechanism.unit or relation != NeighboringRelation.ADD_OR_REMOVE_ONE:
        raise UnknownMechanismError(
            f"unit {unit!r} under relation {relation!r} cannot be composed here; only "
            f"{mechanism.unit.value} under add_or_remove_one can"
        )
    try:
        return mechanism.from_fields(rest)
    except (TypeError, ValueError) as error:
        raise UnknownMechanismError(f"the {kind} event cannot be read: {error}") from error


def checked(name: str, value: float, low: float, high: float) -> None:
    """Refuse anything but a normal number in [low, high]; bools and strings are not numbers here.

    Raises:
        ValueError: the value is not such a number.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or abs(value) < sys.float_info.min
        or not low <= value <= high
    ):
        raise ValueError(f"{name} is {value!r}; allowed is a number from {low:g} to {high:g}")


def checked_count(name: str, value: int, high: int) -> None:
    """Refuse anything but a whole number in [1, high].

    Raises:
        ValueError: the value is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise ValueError(f"{name} is {value!r}; allowed is a whole number from 1 to {high:,}")


def gaussian_divergences(noise_multiplier: float, orders: Sequence[float]) -> list[float]:
    """Return the Rényi divergences of one Gaussian of this noise ÷ sensitivity: α/2σ²."""
    return [order / (2 * noise_multiplier**2) for order in orders]
