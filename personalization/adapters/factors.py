"""Arithmetic of released adapters: read the factors of portable LoRAs, average them, write the result.

Adapters of one line share the frozen factor ``A``, so sums of their ``B`` factors are exact: the mean of them is the
adapter whose update is the mean of the updates. An average of released adapters is free (post-processing). Each
release carries noise of its own, so the average of k independent ones has about 1/k of one's noise variance; older
ones count less, because a tenant's habits drift.

All of it reads and changes the private part of an adapter alone. A public part (``adapters.parts``) is made anew of
each style card: the newest one is kept as it is. Only of a line that remembers are public parts averaged too; they
share no subspace, so their mean is cut back to their rank.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from personalization.adapters.files import CONFIG, WEIGHTS
from personalization.adapters.low_rank import mean_update
from personalization.adapters.parts import private_entry, private_names, settle_order
from personalization.adapters.tensors import read_tensors
from personalization.errors import MetaStartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from personalization.adapters.low_rank import Factors

    Updates = dict[str, NDArray[np.float64]]

DEFAULT_DECAY = 0.5
SAME_SUBSPACE = 1e-3  # adapters of one line family agree in A up to float32 rounding of another machine
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def decayed_weights(count: int, decay: float) -> list[float]:
    """Return weights of ``count`` versions, oldest first; each newer one counts ``1 ÷ decay`` times as much.

    Raises:
        ValueError: ``count`` is below 1, or ``decay`` is outside (0, 1].
    """
    if count < 1 or not 0 < decay <= 1:
        raise ValueError(
            f"count is {count} and decay is {decay}; allowed are at least 1, and above 0 up to 1"
        )
    raw = [decay ** (count - 1 - number) for number in range(count)]
    return [value / sum(raw) for value in raw]


def average_versions(directories: Sequence[Path], target: Path, *, decay: float = DEFAULT_DECAY) -> None:
    """Write the exponential average of released adapters of one line, given oldest first, to ``target``.

    Their private parts are averaged; the public part is the newest one's, where it has one.

    Args:
        directories: portable adapters in one frozen subspace.
        target: a directory that does not exist yet.
        decay: how much less each older version counts; 1 is the plain mean.

    Raises:
        MetaStartError: they share no frozen subspace, or there is none.
    """
    if not directories:
        raise MetaStartError("no released adapter was given to average; start from zero")
    factors = [split_factors(directory) for directory in directories]
    shared = factors[0][0]
    for down, _ in factors:
        require_same_subspace(shared, down)
    weights = decayed_weights(len(factors), decay)
    mean = {
        name: sum(
            (weight * up[name] for weight, (_, up) in zip(weights, factors, strict=True)),
            np.zeros_like(values),
        )
        for name, values in factors[0][1].items()
    }
    write_adapter(target, read_config(directories[-1]), shared, mean, beside=directories[-1])


def blend(earlier: Path, later: Path, target: Path, *, share: float, remembered: int = 0) -> None:
    """Write ``share`` of the earlier released adapter and the rest of the later one to ``target``.

    Done at every release, it is the exponential average of the line's trained adapters: noise that is drawn anew each
    time falls to ``(1 - share) ÷ (1 + share)`` of its variance, and a habit that was learned earlier fades slowly. The
    later one's public part stays as it is, unless earlier ones are remembered.

    Args:
        earlier: a portable adapter, released.
        later: the one that was trained.
        target: a directory that does not exist yet.
        share: of the earlier private part.
        remembered: releases whose public parts are in the earlier one's; it counts as so many beside the later one's,
            and is kept as it is where the later one has none.

    Raises:
        ValueError: ``share`` is outside [0, 1), or ``remembered`` is below 0.
        MetaStartError: the adapters share no frozen subspace, or have no public parts on the same layers.
    """
    if not 0 <= share < 1 or remembered < 0:
        raise ValueError(
            f"share is {share} and remembered is {remembered}; allowed are 0 to below 1, and at least 0"
        )
    (shared, before), (down, after) = split_factors(earlier), split_factors(later)
    require_same_subspace(shared, down)
    mixed = {name: share * before[name] + (1.0 - share) * values for name, values in after.items()}
    beside, public = later, {}
    if remembered and private_names(later) is None:
        beside = earlier
    elif remembered:
        public = _public_mean(earlier, later, remembered_share(remembered))
    write_adapter(target, read_config(later), down, mixed, beside=beside, public=public)


def remembered_share(before: int) -> float:
    """Return the share of what a line served in its next release, if it is to be the plain mean of its releases.

    Args:
        before: releases that are in what was served; public.
    """
    return before / (before + 1)


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
    """Return the ``adapter_config.json`` of an adapter directory, as it would be for its private part alone.

    Raises:
        MetaStartError: it cannot be read.
        ArtifactFormatError: the weights are no safetensors file.
    """
    config = _whole_config(directory)
    names = private_names(directory)
    if names is None:
        return config
    placed = [name.rsplit(".", 3) for name in names]  # …layers, number, block, module
    modules = {module for *_, module in placed}
    listed = config.get("target_modules")
    ordered = [one for one in listed if one in modules] if isinstance(listed, list) else sorted(modules)
    layers = sorted({int(layer) for _, layer, _, _ in placed})
    return {**config, "target_modules": ordered, "layers_to_transform": layers}


def split_factors(directory: Path) -> tuple[Updates, Updates]:
    """Return the ``A`` and the ``B`` factors of an adapter's private part in float64, by module name.

    Raises:
        ArtifactFormatError: the weights are no safetensors file.
    """
    names = private_names(directory)
    down, up = _factors(directory)
    if names is not None:
        down, up = ({name: one for name, one in part.items() if name in names} for part in (down, up))
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


def write_adapter(
    target: Path,
    config: Mapping[str, object],
    down: Updates,
    up: Updates,
    *,
    beside: Path | None = None,
    public: Mapping[str, Factors] | None = None,
) -> None:
    """Write a portable adapter directory from its factors.

    Args:
        target: a directory that does not exist yet.
        config: of the private part; that of ``beside`` is written where it has a public part.
        down: the private part's ``A``.
        up: its ``B``.
        beside: an adapter whose public part is taken along, where it has one.
        public: ``A`` and ``B`` of layers of it that are written instead of its own.
    """
    metadata = {"format": "pt"}
    if beside is not None and private_names(beside) is not None:
        metadata |= private_entry(down)
        config = _whole_config(beside)
        wide_down, wide_up = _factors(beside)
        for name, (its_down, its_up) in (public or {}).items():
            wide_down[name], wide_up[name] = its_down, its_up
        down, up = {**wide_down, **down}, {**wide_up, **up}
    target.mkdir(parents=True)
    tensors = {f"{name}{_DOWN}": values.astype(np.float32) for name, values in down.items()}
    tensors |= {f"{name}{_UP}": values.astype(np.float32) for name, values in up.items()}
    save_file(tensors, target / WEIGHTS, metadata=metadata)
    if len(metadata) > 1:
        settle_order(target / WEIGHTS)
    (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _public_mean(earlier: Path, later: Path, share: float) -> dict[str, Factors]:
    """Return the mean of two adapters' public parts, ``share`` of it the earlier one's, by module name."""
    before, after = (_public_factors(one) for one in (earlier, later))
    if set(before) != set(after):
        raise MetaStartError(
            "the adapters have no public parts on the same layers, so there is no mean of those"
        )
    return {name: mean_update(before[name], factors, share=share) for name, factors in after.items()}


def _public_factors(directory: Path) -> dict[str, Factors]:
    names = private_names(directory)
    down, up = _factors(directory)
    return {name: (down[name], up[name]) for name in up if names is not None and name not in names}


def _whole_config(directory: Path) -> dict[str, object]:
    try:
        config: dict[str, object] = json.loads((directory / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise MetaStartError(
            "a released adapter's configuration cannot be read; check the artifact store"
        ) from error
    return config


def _factors(directory: Path) -> tuple[Updates, Updates]:
    """Return ``A`` and ``B`` of both parts, by module name."""
    down: Updates = {}
    up: Updates = {}
    for tensor in read_tensors(directory / WEIGHTS):
        if tensor.name.endswith(_DOWN):
            down[tensor.name.removesuffix(_DOWN)] = tensor.values.astype(np.float64)
        elif tensor.name.endswith(_UP):
            up[tensor.name.removesuffix(_UP)] = tensor.values.astype(np.float64)
    return down, up
