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
from personalization.starts.recipe import Order, Weighting
from privacy.noise.keystream import PURPOSE_TENANTS
from privacy.noise.lattice import REACH, check_rows, coarse_bits, on_lattice, unit
from privacy.noise.normal import NoiseRow, whole_noise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from personalization.adapters.factors import Updates
    from personalization.starts.recipe import MetaRecipe
    from privacy.noise.keystream import SecretStream


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
        clarity: the public S of its release; used by the curriculum alone.
    """

    tenant_id: str
    version_id: str
    directory: Path
    clarity: float = 1.0


def choose(released: Sequence[Released], recipe: MetaRecipe) -> list[Released]:
    """Return which releases take part, the clearest first: a function of the set alone, never of its order."""
    clear = [one for one in released if one.clarity >= recipe.smallest_signal]
    return sorted(clear, key=lambda one: (-one.clarity, one.version_id))[: recipe.most_tenants]


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
    ordered = choose(released, recipe)
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


def mean_of(directories: Sequence[Path], target: Path) -> None:
    """Write the mean of released adapters' private parts as a portable adapter; each counts alike.

    Args:
        directories: adapters of one base, family, rank, scaling, layers and modules.
        target: a directory that does not exist yet.

    Raises:
        MetaStartError: they share no frozen subspace, or differ in shape.
    """
    config, shared, ups = _alike(directories)
    total = {name: np.zeros_like(values) for name, values in ups[0].items()}
    for up in ups:
        _add(total, up, 1.0 / len(ups))
    write_adapter(target, config, shared, total)


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
    raw = [one.clarity**2 / (1.0 + one.clarity**2) for one in ordered]
    return [value / sum(raw) for value in raw]


def _add(total: Updates, step: Updates, factor: float) -> None:
    for name, values in step.items():
        total[name] += factor * values


def _stepped(start: Updates, step: Updates, factor: float) -> Updates:
    return {name: values + factor * step[name] for name, values in start.items()}


def _shape(config: Mapping[str, object]) -> tuple[object, ...]:
    names = ("r", "lora_alpha", "target_modules", "layers_to_transform")
    return tuple(json.dumps(config.get(name), sort_keys=True) for name in names)
