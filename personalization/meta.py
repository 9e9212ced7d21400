"""The meta start: an average of tenants' released adapters in the frozen subspace that they share.

Every input was released under its own tenant's guarantee, so any function of the inputs keeps the guarantee of every
user (post-processing): the meta start costs no ε. What it does not hide are facts that many users of one tenant
share; that is why a tenant must opt in, a minimum number of tenants must contribute, every contribution is clipped,
and a withdrawal recomputes the start from those that remain.

In the families ``core`` and ``b_only`` all adapters of one base share the factor ``A``, so the mean of their ``B``
factors is exactly the adapter whose update is the mean of the updates. In ``full`` it is not, so ``full`` is refused.

The outer update is Reptile's: ``θ ← θ + η·Σ wₜ·clip(Δₜ − θ)``. With η = 1, equal weights and no clipping it is the
mean. ``TenantLevel`` adds Gaussian noise for the sum over tenants, which also protects each tenant as a whole; that is
a mechanism of its own and its caller charges it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from personalization.errors import MetaStartError
from personalization.gate import CONFIG, WEIGHTS
from personalization.plan import Family
from personalization.tensors import read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Updates = dict[str, NDArray[np.float64]]

SAME_SUBSPACE = 1e-3  # adapters of one line family agree in A up to float32 rounding of another machine
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


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
        outer_rate: η of the outer update.
        generations: how often all contributions are gone through; more than one matters with η < 1.
        weighting: how much each tenant counts.
        order: in which order tenants enter.
    """

    minimum_tenants: int = 3
    max_delta_norm: float = 30.0
    outer_rate: float = 1.0
    generations: int = 1
    weighting: Weighting = Weighting.EQUAL
    order: Order = Order.TOGETHER

    def __post_init__(self) -> None:
        checks = (
            ("minimum_tenants", self.minimum_tenants, self.minimum_tenants >= 2, "at least 2"),
            ("max_delta_norm", self.max_delta_norm, self.max_delta_norm > 0, "above 0"),
            ("outer_rate", self.outer_rate, 0 < self.outer_rate <= 1, "above 0, at most 1"),
            ("generations", self.generations, 1 <= self.generations <= 1000, "1 to 1,000"),
        )
        for name, value, ok, allowed in checks:
            if not ok:
                raise ValueError(f"{name} is {value}; allowed is {allowed}")


@dataclass(frozen=True, kw_only=True)
class TenantLevel:
    """Gaussian noise that protects each tenant as a whole (optional; needs many tenants to be of use).

    Attributes:
        noise_multiplier: noise standard deviation ÷ ``max_delta_norm``; the sum over tenants has that sensitivity.
        declared_tenants: the public normalizer; never the number that contributed.
        normals: returns that many standard normal numbers from a cryptographic source.
    """

    noise_multiplier: float
    declared_tenants: int
    normals: Callable[[int], NDArray[np.float64]] = field(repr=False)

    def __post_init__(self) -> None:
        if self.noise_multiplier <= 0 or self.declared_tenants < 1:
            raise ValueError(
                "tenant-level noise needs a noise multiplier above 0 and at least 1 declared tenant"
            )


@dataclass(frozen=True, kw_only=True)
class Released:
    """One released adapter as a contribution.

    Attributes:
        tenant_id: whose it is; tenants are counted by it.
        version_id: the released version.
        directory: its files.
        signal: the public S of its release; used by the curriculum alone.
    """

    tenant_id: str
    version_id: str
    directory: Path
    signal: float = 1.0


def meta_start(
    released: Sequence[Released], recipe: MetaRecipe, target: Path, *, tenant_level: TenantLevel | None = None
) -> dict[str, float]:
    """Write the meta start of ``released`` as a portable adapter to ``target``; return each version's weight.

    The result depends on the set of contributions, never on their order in the argument.

    Args:
        released: released adapters of one base, family, rank, scaling, layers and modules; one per tenant.
        recipe: public numbers.
        target: a directory that does not exist yet.
        tenant_level: noise for the sum; its caller has charged it.

    Raises:
        MetaStartError: too few tenants, a tenant twice, the family ``full``, or adapters that do not share the
            subspace.
    """
    ordered = sorted(released, key=lambda one: (-one.signal, one.version_id))
    tenants = {one.tenant_id for one in ordered}
    if len(tenants) < recipe.minimum_tenants:
        raise MetaStartError(
            f"a meta start needs {recipe.minimum_tenants} tenants; {len(tenants)} with a fitting released adapter "
            "opted in"
        )
    if len(tenants) < len(ordered):
        raise MetaStartError(
            "a tenant contributes twice to one meta start; give one released adapter per tenant"
        )
    configs = [read_config(one.directory) for one in ordered]
    if any(_shape(config) != _shape(configs[0]) for config in configs):
        raise MetaStartError("adapters of different rank, scaling, layers or modules cannot be averaged")
    factors = [split_factors(one.directory) for one in ordered]
    shared = factors[0][0]
    for down, _ in factors:
        require_same_subspace(shared, down)
    weights = _weights(ordered, recipe.weighting)
    start = {name: np.zeros_like(up) for name, up in factors[0][1].items()}
    for _ in range(recipe.generations):
        start = _generation(start, [up for _, up in factors], weights, recipe, tenant_level)
    write_adapter(target, configs[0], shared, start)
    return dict(zip((one.version_id for one in ordered), weights, strict=True))


def _generation(
    start: Updates,
    ups: Sequence[Updates],
    weights: Sequence[float],
    recipe: MetaRecipe,
    noise: TenantLevel | None,
) -> Updates:
    if noise is not None:  # the sum of clipped contributions, noised once, divided by the public number
        total = {name: np.zeros_like(values) for name, values in start.items()}
        for up in ups:
            _add(total, clipped(difference(up, start), recipe.max_delta_norm), 1.0)
        std = noise.noise_multiplier * recipe.max_delta_norm
        for name, values in total.items():
            total[name] = values + std * noise.normals(values.size).reshape(values.shape)
        return _stepped(start, total, recipe.outer_rate / noise.declared_tenants)
    if recipe.order is Order.CLEAREST_FIRST:
        for up, weight in zip(ups, weights, strict=True):
            step = clipped(difference(up, start), recipe.max_delta_norm)
            start = _stepped(start, step, recipe.outer_rate * weight)
        return start
    total = {name: np.zeros_like(values) for name, values in start.items()}
    for up, weight in zip(ups, weights, strict=True):
        _add(total, clipped(difference(up, start), recipe.max_delta_norm), weight)
    return _stepped(start, total, recipe.outer_rate)


def _weights(ordered: Sequence[Released], weighting: Weighting) -> list[float]:
    if weighting is Weighting.EQUAL:
        return [1.0 / len(ordered)] * len(ordered)
    raw = [one.signal**2 / (1.0 + one.signal**2) for one in ordered]
    return [value / sum(raw) for value in raw]


def _add(total: Updates, step: Updates, factor: float) -> None:
    for name, values in step.items():
        total[name] += factor * values


def _stepped(start: Updates, step: Updates, factor: float) -> Updates:
    return {name: values + factor * step[name] for name, values in start.items()}


def difference(left: Updates, right: Updates) -> Updates:
    """Return ``left − right``, matrix by matrix."""
    return {name: values - right[name] for name, values in left.items()}


def norm(update: Updates) -> float:
    """Return the L2 norm over all matrices."""
    return math.sqrt(sum(float(np.sum(values**2)) for values in update.values()))


def clipped(update: Updates, limit: float) -> Updates:
    """Return ``update`` scaled to an L2 norm of at most ``limit``."""
    length = norm(update)
    factor = 1.0 if length <= limit else limit / length
    return {name: values * factor for name, values in update.items()}


def read_config(directory: Path) -> dict[str, object]:
    """Return the ``adapter_config.json`` of an adapter directory.

    Raises:
        MetaStartError: it cannot be read.
    """
    try:
        config: dict[str, object] = json.loads((directory / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise MetaStartError(
            "a released adapter's configuration cannot be read; check the artifact store"
        ) from error
    return config


def split_factors(directory: Path) -> tuple[Updates, Updates]:
    """Return the ``A`` and the ``B`` factors of an adapter directory in float64, by module name.

    Raises:
        ArtifactFormatError: the weights are no safetensors file.
    """
    down: Updates = {}
    up: Updates = {}
    for tensor in read_tensors(directory / WEIGHTS):
        if tensor.name.endswith(_DOWN):
            down[tensor.name.removesuffix(_DOWN)] = tensor.values.astype(np.float64)
        elif tensor.name.endswith(_UP):
            up[tensor.name.removesuffix(_UP)] = tensor.values.astype(np.float64)
    return down, up


def require_same_subspace(
    left: Mapping[str, NDArray[np.float64]], right: Mapping[str, NDArray[np.float64]]
) -> None:
    """Refuse adapters that do not share the frozen ``A``: the mean of their ``B`` would be no mean of updates.

    Raises:
        MetaStartError: modules, shapes or values of ``A`` differ.
    """
    same = set(left) == set(right) and all(
        values.shape == right[name].shape and np.allclose(values, right[name], atol=SAME_SUBSPACE)
        for name, values in left.items()
    )
    if not same:
        raise MetaStartError(
            "the adapters do not share one frozen subspace, so their average is not the average of what they do"
        )


def write_adapter(target: Path, config: Mapping[str, object], down: Updates, up: Updates) -> None:
    """Write a portable adapter directory from its factors."""
    target.mkdir(parents=True)
    tensors = {f"{name}{_DOWN}": values.astype(np.float32) for name, values in down.items()}
    tensors |= {f"{name}{_UP}": values.astype(np.float32) for name, values in up.items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def require_averageable(family: str) -> None:
    """Refuse the family whose factors cannot be averaged.

    Raises:
        MetaStartError: the family trains ``A`` too.
    """
    if family == Family.FULL.value:
        raise MetaStartError(
            "adapters of the family full have no shared factor, so they cannot be averaged; use core or b_only"
        )


def _shape(config: Mapping[str, object]) -> tuple[object, ...]:
    names = ("r", "lora_alpha", "target_modules", "layers_to_transform")
    return tuple(json.dumps(config.get(name), sort_keys=True) for name in names)
