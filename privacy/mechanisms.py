"""Mechanism events: every kind of private read, as a frozen value with a versioned JSON document.

The ledger stores these events; an (ε, δ) is always derived from them. The contract is the one of
dp_accounting's events: types are never removed, parameters are only added as optional ones, meanings never
change, and an event this version does not know is refused (``UnknownMechanismError``), never skipped.

Every number is checked on construction: it must be a finite, normal, positive float inside a stated range,
so that a NaN, an infinity, a negative or a subnormal cost can never slip past a filter.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import ClassVar, Final

from privacy.errors import UnknownMechanismError
from privacy.guarantee import FLEET, NeighboringRelation, PrivacyUnit, Sampler

DOCUMENT_VERSION: Final = 1


class Purpose(StrEnum):
    """Why private data is read; every purpose is charged."""

    TRAINING = "training"
    COHORT_COUNT = "cohort_count"
    EVALUATION = "evaluation"
    KPI = "kpi"
    DRIFT = "drift"
    SELECTION = "selection"
    CLIPPING = "clipping"
    META_START = "meta_start"


class TrialsDistribution(StrEnum):
    """How the random number of trials of a private selection is drawn."""

    POISSON = "poisson"
    GEOMETRIC = "geometric"


def _checked(name: str, value: float, low: float, high: float) -> None:
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


def _checked_count(name: str, value: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise ValueError(f"{name} is {value!r}; allowed is a whole number from 1 to {high:,}")


@dataclass(frozen=True, kw_only=True)
class PoissonSampledGaussian:
    """DP-SGD: ``steps`` sums of clipped per-user gradients over Poisson draws, each with Gaussian noise.

    Attributes:
        noise_multiplier: noise standard deviation ÷ clipping norm (no unit).
        sample_rate: Poisson probability per user and step; 1 means every user takes part.
        steps: composed applications.
        purpose: why the data is read.
        clipping_norm: L2 bound on one user's gradient (recorded for the statement; the cost does not depend
            on it).
        contribution_bound: most records one user may have (recorded for the statement).
    """

    kind: ClassVar[str] = "poisson_sampled_gaussian"

    noise_multiplier: float
    sample_rate: float
    steps: int
    purpose: Purpose = Purpose.TRAINING
    clipping_norm: float | None = None
    contribution_bound: int | None = None

    def __post_init__(self) -> None:
        _checked("noise_multiplier", self.noise_multiplier, 0.05, 1e4)
        _checked("sample_rate", self.sample_rate, 1e-7, 1.0)
        _checked_count("steps", self.steps, 1_000_000)
        if self.clipping_norm is not None:
            _checked("clipping_norm", self.clipping_norm, 1e-9, 1e9)
        if self.contribution_bound is not None:
            _checked_count("contribution_bound", self.contribution_bound, 1_000_000)

    @property
    def sampler(self) -> Sampler:
        """How users are drawn."""
        return Sampler.POISSON if self.sample_rate < 1 else Sampler.NONE


@dataclass(frozen=True, kw_only=True)
class Gaussian:
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
    purpose: Purpose
    count: int = 1

    def __post_init__(self) -> None:
        _checked("sensitivity", self.sensitivity, 1e-9, 1e9)
        _checked("standard_deviation", self.standard_deviation, 1e-9, 1e12)
        _checked("noise_multiplier", self.noise_multiplier, 0.05, 1e6)
        _checked_count("count", self.count, 1_000_000)

    @property
    def noise_multiplier(self) -> float:
        """Noise standard deviation ÷ sensitivity."""
        return self.standard_deviation / self.sensitivity


@dataclass(frozen=True, kw_only=True)
class PureSelection:
    """An ``epsilon``-DP choice among public candidates (exponential mechanism, report noisy max)."""

    kind: ClassVar[str] = "pure_selection"

    epsilon: float
    purpose: Purpose = Purpose.SELECTION

    def __post_init__(self) -> None:
        _checked("epsilon", self.epsilon, 1e-6, 50.0)


@dataclass(frozen=True, kw_only=True)
class RepeatAndSelect:
    """A random number of runs of ``base``; only the best is released (Papernot and Steinke, 2110.03620).

    Attributes:
        base: everything one trial reads, its score included.
        mean_trials: mean of the random number of trials.
        distribution: of that number; Poisson (Theorem 6) or geometric (Theorem 2 with η = 1).
        purpose: why the data is read.
    """

    kind: ClassVar[str] = "repeat_and_select"

    base: tuple[PoissonSampledGaussian | Gaussian, ...]
    mean_trials: float
    distribution: TrialsDistribution = TrialsDistribution.POISSON
    purpose: Purpose = Purpose.SELECTION

    def __post_init__(self) -> None:
        _checked("mean_trials", self.mean_trials, 1.0, 1e4)
        if not self.base or any(not isinstance(one, PoissonSampledGaussian | Gaussian) for one in self.base):
            raise ValueError(
                "base is empty or holds a selection; allowed are Gaussian mechanisms, at least one"
            )


@dataclass(frozen=True, kw_only=True)
class TenantGaussian:
    """The sum over tenants of their clipped released adapters, with Gaussian noise: the unit is a tenant.

    It is charged to the fleet's account and never composed with mechanisms whose unit is a user.

    Attributes:
        noise_multiplier: noise standard deviation ÷ clipping norm.
        clipping_norm: L2 bound on one tenant's adapter.
        purpose: why it is read.
    """

    kind: ClassVar[str] = "tenant_gaussian"

    noise_multiplier: float
    clipping_norm: float
    purpose: Purpose = Purpose.META_START

    def __post_init__(self) -> None:
        _checked("noise_multiplier", self.noise_multiplier, 0.05, 1e6)
        _checked("clipping_norm", self.clipping_norm, 1e-9, 1e9)


Mechanism = PoissonSampledGaussian | Gaussian | PureSelection | RepeatAndSelect | TenantGaussian

_TYPES: Final[
    dict[str, type[PoissonSampledGaussian | Gaussian | PureSelection | RepeatAndSelect | TenantGaussian]]
] = {
    one.kind: one
    for one in (PoissonSampledGaussian, Gaussian, PureSelection, RepeatAndSelect, TenantGaussian)
}


def unit_of(mechanism: Mechanism) -> PrivacyUnit:
    """Return whose presence a mechanism's cost is about."""
    return PrivacyUnit.TENANT if isinstance(mechanism, TenantGaussian) else PrivacyUnit.USER


def unit_of_chain(tenant_id: str) -> PrivacyUnit:
    """Return the one unit that a chain of the ledger composes."""
    return PrivacyUnit.TENANT if tenant_id == FLEET else PrivacyUnit.USER


def to_document(mechanism: Mechanism) -> dict[str, object]:
    """Return the JSON document of a mechanism, with type, version, privacy unit and neighboring relation."""
    if type(mechanism) not in _TYPES.values():
        raise UnknownMechanismError(
            f"the mechanism type {type(mechanism).__name__} is not known; allowed are {', '.join(_TYPES)}"
        )
    fields: dict[str, object] = {key: value for key, value in asdict(mechanism).items() if value is not None}
    if isinstance(mechanism, RepeatAndSelect):
        fields["base"] = [to_document(one) for one in mechanism.base]
    if isinstance(mechanism, PoissonSampledGaussian):
        fields["sampler"] = mechanism.sampler.value
    return {
        "type": mechanism.kind,
        "version": DOCUMENT_VERSION,
        "unit": unit_of(mechanism).value,
        "relation": NeighboringRelation.ADD_OR_REMOVE_ONE.value,
        **fields,
    }


def from_document(document: dict[str, object]) -> Mechanism:
    """Read a mechanism back from ``to_document``'s form.

    Raises:
        UnknownMechanismError: the type, version, unit, relation, a field or a value is not known to this
            version.
    """
    fields = dict(document)
    kind, version = fields.pop("type", None), fields.pop("version", None)
    unit, relation = fields.pop("unit", None), fields.pop("relation", None)
    if kind not in _TYPES or version != DOCUMENT_VERSION:
        raise UnknownMechanismError(
            f"mechanism type {kind!r} version {version!r} is not known; upgrade to a version that knows it"
        )
    allowed = PrivacyUnit.TENANT if kind == TenantGaussian.kind else PrivacyUnit.USER
    if unit != allowed or relation != NeighboringRelation.ADD_OR_REMOVE_ONE:
        raise UnknownMechanismError(
            f"unit {unit!r} under relation {relation!r} cannot be composed here; only "
            f"{allowed.value} under add_or_remove_one can"
        )
    sampler = fields.pop("sampler", None)
    try:
        if "purpose" in fields:
            fields["purpose"] = Purpose(str(fields["purpose"]))
        if kind == RepeatAndSelect.kind:
            base = fields.get("base")
            fields["base"] = tuple(from_document(one) for one in (base if isinstance(base, list) else ()))
            fields["distribution"] = TrialsDistribution(str(fields.get("distribution")))
        mechanism = _TYPES[str(kind)](**fields)  # type: ignore[arg-type]  # checked by __post_init__
    except (TypeError, ValueError) as error:
        raise UnknownMechanismError(f"the {kind} event cannot be read: {error}") from error
    if isinstance(mechanism, PoissonSampledGaussian) and sampler != mechanism.sampler:
        raise UnknownMechanismError(
            f"sampler {sampler!r} does not fit the sample rate; only Poisson is accounted"
        )
    return mechanism
