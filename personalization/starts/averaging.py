"""The meta start: an average of tenants' released adapters in the frozen subspace that they share.

Every input was released under its own tenant's guarantee, so any function of the inputs keeps the guarantee of every
user (post-processing): the meta start costs no ε. What it does not hide are facts that many users of one tenant
share; that is why a tenant must opt in, a minimum number of tenants must contribute, every contribution is clipped,
and a withdrawal recomputes the start from those that remain.

In the families ``core`` and ``b_only`` all adapters of one base share the factor ``A``, so the mean of their ``B``
factors is exactly the adapter whose update is the mean of the updates. In ``full`` it is not, so ``full`` is refused.

The outer update is Reptile's: ``θ ← θ + η·Σ wₜ·clip(Δₜ − θ)``, where ``Δₜ`` is what tenant t's training from an
earlier start led to. Each new set of released adapters makes one *generation*, which continues from the generation
before (η < 1) or from zero (η = 1). With η = 1, equal weights and no clipping it is the mean. The *curriculum* says
which tenants take part, how much each counts and in which order.
``TenantLevel`` adds Gaussian noise to the sum over tenants, which also protects each tenant as a whole; that is
a mechanism of its own and its caller charges it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from personalization.adapters.factors import (
    clipped,
    difference,
    read_config,
    require_same_subspace,
    split_factors,
    write_adapter,
)
from personalization.errors import MetaStartError
from personalization.planning.plan import Family
from privacy.noise.keystream import PURPOSE_TENANTS
from privacy.noise.lattice import REACH, check_rows, coarse_bits, on_lattice, unit
from privacy.noise.normal import NoiseRow, whole_noise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from personalization.adapters.factors import Updates
    from privacy.noise.keystream import SecretStream


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
        passes: how often one generation goes through all contributions; more than one matters with η < 1.
        weighting: how much each tenant counts.
        order: in which order tenants enter.
        smallest_signal: only releases with at least this public signal-to-noise S take part.
        most_tenants: at most so many, the clearest first; None takes all.
    """

    minimum_tenants: int = 3
    max_delta_norm: float = 30.0
    outer_rate: float = 1.0
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

    def choose(self, released: Sequence[Released]) -> list[Released]:
        """Return which releases take part, the clearest first: a function of the set alone, never of its order."""
        clear = [one for one in released if one.signal >= self.smallest_signal]
        return sorted(clear, key=lambda one: (-one.signal, one.version_id))[: self.most_tenants]


@dataclass(frozen=True, kw_only=True)
class TenantLevel:
    """Gaussian noise that protects each tenant as a whole (optional; needs many tenants to be of use).

    Attributes:
        noise_multiplier: noise standard deviation ÷ ``max_delta_norm``; the sum over tenants has that sensitivity.
        declared_tenants: the public normalizer; never the number that contributed.
        stream: the secret numbers of this one release.
    """

    noise_multiplier: float
    declared_tenants: int
    stream: SecretStream = field(repr=False)

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
    released: Sequence[Released], recipe: MetaRecipe, target: Path, *, previous: Path | None = None
) -> dict[str, float]:
    """Write the meta start of ``released`` as a portable adapter to ``target``; return each version's weight.

    The result depends on the set of contributions, never on their order in the argument.

    Args:
        released: released adapters of one base, family, rank, scaling, layers and modules; one per tenant.
        recipe: public numbers.
        target: a directory that does not exist yet.
        previous: the generation before, from which this one goes on; zero where there is none.

    Raises:
        MetaStartError: too few tenants, a tenant twice, the family ``full``, or adapters that do not share the
            subspace.
    """
    ordered = recipe.choose(released)
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
    directories = [one.directory for one in ordered]
    config, shared, ups = _alike(directories if previous is None else [previous, *directories])
    weights = _weights(ordered, recipe.weighting)
    start = {name: np.zeros_like(up) for name, up in ups[0].items()} if previous is None else ups.pop(0)
    for _ in range(recipe.passes):
        start = _pass(start, ups, weights, recipe)
    write_adapter(target, config, shared, start)
    return dict(zip((one.version_id for one in ordered), weights, strict=True))


def tenant_level_start(
    released: Sequence[Released], recipe: MetaRecipe, level: TenantLevel, template: Path, target: Path
) -> None:
    """Write a meta start that also protects each tenant as a whole: a noisy sum over a public number of tenants.

    ``θ = (Σ clip(Δₜ) + noise) ÷ declared tenants``. Adding or removing one tenant, with its released adapter, moves the
    sum by at most ``max_delta_norm``. Nothing else depends on who takes part: neither the shape nor the frozen factors
    (both are the template's) nor whether there is a result.

    Args:
        released: the tenants' adapters of the template's shape, one per tenant; there may be none.
        recipe: ``max_delta_norm`` is its one number that counts here.
        level: noise and normalizer; the caller has charged it.
        template: a public adapter of the shape, such as the one that changes nothing.
        target: a directory that does not exist yet.

    Raises:
        MetaStartError: a tenant twice.
    """
    if len({one.tenant_id for one in released}) < len(released):
        raise MetaStartError(
            "a tenant contributes twice to one meta start; give one released adapter per tenant"
        )
    check_rows(len(released))
    config, shared, (zero,) = _alike([template])
    names = sorted(zero)
    size = sum(zero[name].size for name in names)
    total = np.zeros(size, dtype=np.int64)
    for one in released:
        try:
            _, _, (_, up) = _alike([template, one.directory])
        except MetaStartError:
            continue  # an adapter that does not fit counts as zero, whoever else takes part
        if set(up) == set(zero):
            total += on_lattice(np.concatenate([up[name].ravel() for name in names]), recipe.max_delta_norm)
    noise = NoiseRow(level.stream, level.noise_multiplier * REACH)
    total += whole_noise([noise], PURPOSE_TENANTS, 0, size)[0]
    bits = coarse_bits(noise.deviation)
    multiples = (total + ((1 << bits) >> 1)) >> bits
    flat = multiples * (math.ldexp(unit(recipe.max_delta_norm), bits) / level.declared_tenants)
    ends = np.cumsum([zero[name].size for name in names])[:-1]
    start = {
        name: part.reshape(zero[name].shape) for name, part in zip(names, np.split(flat, ends), strict=True)
    }
    write_adapter(target, config, shared, start)


def _alike(directories: Sequence[Path]) -> tuple[dict[str, object], Updates, list[Updates]]:
    """Return the shared configuration and ``A``, and each adapter's ``B``."""
    configs = [read_config(directory) for directory in directories]
    if any(_shape(config) != _shape(configs[0]) for config in configs):
        raise MetaStartError("adapters of different rank, scaling, layers or modules cannot be averaged")
    factors = [split_factors(directory) for directory in directories]
    shared = factors[0][0]
    for down, _ in factors:
        require_same_subspace(shared, down)
    return configs[0], shared, [up for _, up in factors]


def _pass(start: Updates, ups: Sequence[Updates], weights: Sequence[float], recipe: MetaRecipe) -> Updates:
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
