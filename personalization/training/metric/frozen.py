"""The factors that all adapters of a base share, and the subspace of public gradients they may come from.

The subspace ``public_gradients`` is computed once and kept beside the base model. Trainers of one fleet must agree on
it: a stored file is used as it is, so that another machine's rounding never gives another basis. The file's name holds
a digest of the public interactions and of the code's version.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from personalization.planning.plan import ALL_LINEAR, Objective, PerformanceFlags, Subspace, TrainingPlan
from personalization.training.engine.batches import PrefixCache, assemble
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenUser
from personalization.training.engine.families import Frozen, Geometry
from personalization.training.jobs.job import UserExamples
from personalization.training.metric.directions import GradientEnergy, squared_norm, top_singular_directions
from personalization.training.public.styles import interactions
from personalization.training.public.texts import protected_users

MAX_RANK = 16  # what servers load by default; lower ranks are the first rows
MAX_TOKENS = 72
_VERSION = "2"  # raise it when the computation changes: adapters of two subspaces are never mixed

_TOKENS_PER_PASS = 2048

Directions = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedShape:
    """One adapter shape on a loaded base: all that reading texts and running an adapter needs.

    Attributes:
        decoder: the frozen base.
        encoder: its tokenizer.
        plan: fixes the shape, what is read of a user, and the size of the shortlist; its other fields are not used.
        geometry: layout of the adapter's flat vector.
        frozen: the shared factors.
        flags: tokens of one pass, and whether the output head may be multiplied in bfloat16.
    """

    decoder: FrozenDecoder
    encoder: Encoder
    plan: TrainingPlan
    geometry: Geometry
    frozen: Frozen
    flags: PerformanceFlags

    @classmethod
    def of_plan(
        cls, decoder: FrozenDecoder, encoder: Encoder, plan: TrainingPlan, flags: PerformanceFlags
    ) -> LoadedShape:
        """Lay the plan's adapter out on the base.

        Raises:
            JobInvalidError: the plan does not fit the base model.
        """
        geometry = Geometry.of_plan(plan, decoder.shapes, decoder.layer_count)
        frozen = frozen_factors(decoder, encoder, geometry)
        return cls(decoder=decoder, encoder=encoder, plan=plan, geometry=geometry, frozen=frozen, flags=flags)

    def read(self, user: UserExamples) -> TokenUser:
        """Encode one user as the plan asks.

        Raises:
            JobInvalidError: the user has more examples than the plan's contribution bound.
        """
        plan = self.plan
        return self.encoder.user(
            user, bound=plan.contribution_bound, objective=plan.objective, max_tokens=plan.max_tokens
        )


@dataclass
class _Subspaces:
    """What was found for a base so far: per layer, suffix and rank, and per set of layers."""

    of_weights: dict[tuple[int, str, int], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    of_gradients: dict[tuple[int, ...], Directions] = field(default_factory=dict)


def frozen_factors(decoder: FrozenDecoder, encoder: Encoder, geometry: Geometry) -> Frozen:
    """Return the shared factors of the adapted layers in the compute dtype (computed once per process).

    Args:
        decoder: the frozen base.
        encoder: reads the public interactions of the subspace ``public_gradients``.
        geometry: which layers, which rank and which subspace.
    """
    found = decoder.kept.once(_Subspaces, None, _Subspaces)
    frozen: Frozen = {}
    for slot in geometry.slots:
        if geometry.subspace is Subspace.PUBLIC_GRADIENTS:
            if geometry.layers not in found.of_gradients:
                found.of_gradients[geometry.layers] = public_subspace(
                    decoder, encoder, geometry.layers, decoder.directory
                )
            down, up = (part[: geometry.rank] for part in found.of_gradients[geometry.layers][slot.key])
        else:
            key = (*slot.key, geometry.rank)
            if key not in found.of_weights:
                found.of_weights[key] = top_singular_directions(
                    decoder.linear(slot.layer, slot.suffix).weight, geometry.rank
                )
            down, up = found.of_weights[key]
        frozen[slot.key] = (down.to(decoder.device, decoder.dtype), up.to(decoder.device, decoder.dtype))
    return frozen


def public_subspace(
    decoder: FrozenDecoder, encoder: Encoder, layers: tuple[int, ...], folder: Path | None
) -> Directions:
    """Return orthonormal ``A₀ (16, d_in)`` and ``B₀ (16, d_out)`` of each linear layer, float32 on the CPU.

    A layer narrower than 16 gives as many directions as its smaller side.

    Args:
        decoder: the frozen base.
        encoder: its tokenizer.
        layers: layer numbers, consecutive up to the last.
        folder: where to keep the result (the base model's directory); None, or one that cannot be written, computes it.
    """
    path = None if folder is None else folder / _file_name(layers)
    if path is not None and path.is_file():
        with contextlib.suppress(OSError, SafetensorError, KeyError):  # a damaged copy is computed again
            return _unpacked(load_file(path), layers)
    found = _compute(decoder, encoder, layers)
    if path is not None:
        with contextlib.suppress(OSError):  # a read-only base directory: computed at every start
            _store(path, found)
    return found


class _Watch(TorchFunctionMode):
    """Keeps what enters some linear layers, and the slope towards what leaves them."""

    def __init__(self, weights: dict[int, tuple[int, str]]) -> None:
        super().__init__()
        self._weights = weights
        self.seen: dict[tuple[int, str], list[torch.Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is functional.linear and id(args[1]) in self._weights:
            key = self._weights[id(args[1])]
            self.seen[key] = [args[0].detach()]
            out.register_hook(self.seen[key].append)
        return out


def _compute(decoder: FrozenDecoder, encoder: Encoder, layers: tuple[int, ...]) -> Directions:
    keys = [(layer, suffix) for layer in layers for suffix in ALL_LINEAR]
    energies = {key: GradientEnergy() for key in keys}
    weights = {id(decoder.linear(*key).weight): key for key in keys}
    above = range(layers[0], decoder.layer_count)

    def watched(users: tuple[UserExamples, ...]) -> Iterator[dict[tuple[int, str], list[torch.Tensor]]]:
        """Yield, for each user, what entered the layers and the slopes of the user's loss towards their outputs."""
        cache = PrefixCache(decoder, layers[0], enabled=True)
        encoded = [
            (0, encoder.user(user, bound=1, objective=Objective.SFT, max_tokens=MAX_TOKENS)) for user in users
        ]
        for member in cache.fill(encoded, _TOKENS_PER_PASS):
            micro = assemble([member], decoder.device, torch.promote_types(decoder.dtype, torch.float32))
            with _Watch(weights) as watch:
                hidden = cache.hidden(micro).detach().clone().requires_grad_()
                out = decoder.run(hidden, micro.batch, above, labels_only=True)
                loss = micro.terms.total(decoder.head.label_nll(out, micro.batch.targets), None)
            loss.backward()  # type: ignore[no-untyped-call]
            yield watch.seen

    for seen in watched(interactions()):
        length = math.sqrt(sum(squared_norm(*seen[key]) for key in keys))
        for key in keys:  # every public user counts alike, as every tenant's user does
            inputs, slopes = seen[key]
            energies[key].add(inputs, slopes, weight=1.0 / length)
    for seen in watched(protected_users()):
        for key in keys:
            energies[key].keep(seen[key][0])
    return {key: energy.directions(MAX_RANK) for key, energy in energies.items()}


def _file_name(layers: tuple[int, ...]) -> str:
    texts = [*interactions(), *protected_users()]
    text = repr([(example.prompt, example.completion) for user in texts for example in user.examples])
    digest = hashlib.sha256(f"{_VERSION}/{MAX_TOKENS}/{layers}/{text}".encode()).hexdigest()[:16]
    return f"subspace-{digest}.discreet"


def _store(path: Path, found: Directions) -> None:
    """Write the file whole or not at all; of two processes that do, the last wins with the same numbers."""
    tensors = {}
    for (layer, suffix), (down, up) in found.items():
        tensors[f"{layer}.{suffix}.A"], tensors[f"{layer}.{suffix}.B"] = down, up
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".subspace-")
    os.close(handle)
    try:
        save_file(tensors, name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _unpacked(tensors: dict[str, torch.Tensor], layers: tuple[int, ...]) -> Directions:
    return {
        (layer, suffix): (tensors[f"{layer}.{suffix}.A"], tensors[f"{layer}.{suffix}.B"])
        for layer in layers
        for suffix in ALL_LINEAR
    }
