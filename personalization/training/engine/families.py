"""Adapter families as flat vectors: which numbers are trained, where they sit, and how they act on a linear layer.

All families write the update of a linear layer as ``y += s · x Aᵀ C`` with ``A (r, d_in)`` and ``C (r, d_out)``:

- ``core``: ``C = R B₀`` with ``A₀`` and ``B₀`` frozen and shared; the ``r×r`` matrix ``R`` is trained;
- ``b_only``: ``A₀`` frozen and shared; ``C`` is trained;
- ``full``: ``A`` and ``C`` are trained, ``A`` starting at ``A₀``.

One tenant's trained numbers are one flat vector of length ``Geometry.size``, so that Opacus sees a single parameter
and averages of adapters of one line are averages of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from personalization.planning.plan import Family, Subspace, TrainingPlan
from personalization.training.errors import JobInvalidError

Shapes = dict[tuple[int, str], tuple[int, int]]
Frozen = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]
# Plain LoRA factors A (r, d_in) and B (d_out, r), by layer number and suffix name.
Factors = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Slot:
    """One adapted linear layer: its place in the model and in the flat vector."""

    layer: int
    suffix: str
    d_in: int
    d_out: int
    down: slice | None  # A, where it is trained
    up: slice  # C, or the core R

    @property
    def key(self) -> tuple[int, str]:
        """Layer number and suffix name."""
        return self.layer, self.suffix


@dataclass(frozen=True)
class Geometry:
    """The layout of one adapter line's flat vector."""

    family: Family
    rank: int
    alpha: float
    layers: tuple[int, ...]
    slots: tuple[Slot, ...]
    size: int
    subspace: Subspace = Subspace.WEIGHTS

    @property
    def scaling(self) -> float:
        """LoRA scaling s = alpha ÷ rank."""
        return self.alpha / self.rank

    @property
    def first_layer(self) -> int:
        """The lowest adapted layer; everything below it is frozen and can be cached."""
        return self.layers[0]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The adapted suffix names, in model order."""
        return tuple(dict.fromkeys(slot.suffix for slot in self.slots))

    def parts(self, vectors: torch.Tensor) -> dict[int, torch.Tensor]:
        """Cut ``(n, size)`` into every slot's parts, by where a part starts; one operation for all."""
        ranges = [part for slot in self.slots for part in (slot.down, slot.up) if part is not None]
        cut = torch.split(vectors, [part.stop - part.start for part in ranges], dim=1)
        return {part.start: piece for part, piece in zip(ranges, cut, strict=True)}

    @classmethod
    def of_plan(cls, plan: TrainingPlan, shapes: Shapes, layer_count: int) -> Geometry:
        """Lay out the adapter that ``plan`` asks for on a model with the given linear layers.

        Raises:
            JobInvalidError: more layers than the model has, or a rank above a layer's width.
        """
        if plan.top_layers > layer_count:
            raise JobInvalidError(
                f"the plan adapts the top {plan.top_layers} layers; the base model has {layer_count}"
            )
        layers = tuple(range(layer_count - plan.top_layers, layer_count))
        slots: list[Slot] = []
        start = 0
        for layer in layers:
            for suffix in plan.target_modules:
                d_in, d_out = shapes[layer, suffix]
                if plan.rank > min(d_in, d_out):
                    raise JobInvalidError(
                        f"the plan's rank is {plan.rank}; {suffix} of the base model allows at most {min(d_in, d_out)}"
                    )
                down = None
                if plan.family is Family.FULL:
                    down = slice(start, start + plan.rank * d_in)
                    start = down.stop
                width = plan.rank if plan.family is Family.CORE else d_out
                up = slice(start, start + plan.rank * width)
                start = up.stop
                slots.append(Slot(layer, suffix, d_in, d_out, down, up))
        return cls(plan.family, plan.rank, plan.alpha, layers, tuple(slots), start, plan.subspace)

    def initial(self, frozen: Frozen) -> torch.Tensor:
        """Return the flat vector whose adapter changes nothing (trained ``A`` at ``A₀``, everything else zero)."""
        vector = torch.zeros(self.size, dtype=torch.float64)
        for slot in self.slots:
            if slot.down is not None:
                vector[slot.down] = frozen[slot.key][0].double().flatten()
        return vector

    def factors(
        self, vector: torch.Tensor, frozen: Frozen
    ) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
        """Return the plain LoRA factors ``A (r, d_in)`` and ``B (d_out, r)`` of each slot, in float64."""
        factors = {}
        for slot in self.slots:
            down, up = (part.double() for part in frozen[slot.key])
            trained = vector[slot.up].double().view(self.rank, -1)
            if slot.down is not None:
                down = vector[slot.down].double().view(self.rank, slot.d_in)
            combined = trained @ up if self.family is Family.CORE else trained
            factors[slot.key] = (down, combined.t())
        return factors
