"""A linear layer of the frozen base with a low-rank update per tenant and an exact gradient per user.

The backward pass computes ``dA_u = Σ uᵀ x`` and ``dC_u = Σ hᵀ g`` over the tokens of each user: the same products that
a non-private backward pass needs, only summed per user instead of over the whole batch. The sums go straight into
``Binding.rows``, one row per user, which Opacus then clips. Source: Book-Keeping (arXiv 2210.00038) restated for
low-rank factors, where materializing the per-user gradient is the cheapest exact form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from personalization.planning.plan import Family
from personalization.training.engine.families import Frozen, Geometry, Slot
from personalization.training.engine.segments import Segments
from personalization.training.errors import NotTrainedError


@dataclass(frozen=True)
class TokenGroups:
    """How a list of tokens splits into tenants and users (both contiguous, users inside tenants)."""

    tenants: Segments
    users: Segments


@dataclass(frozen=True)
class Binding:
    """The adapters of one micro-batch and the place where its users' gradients go.

    Attributes:
        geometry: layout of the flat vectors.
        frozen: shared factors A₀, B₀ in the compute dtype.
        vectors: ``(tenants present, size)``; a leaf that requires a gradient while training.
        rows: ``(users present, size)`` receives the per-user gradients; None outside training.
    """

    geometry: Geometry
    frozen: Frozen
    vectors: torch.Tensor
    rows: torch.Tensor | None
    slots: dict[tuple[int, str], Slot] = field(init=False)
    _factors: dict[tuple[int, str], tuple[torch.Tensor | None, torch.Tensor]] = field(
        init=False, default_factory=dict
    )
    _written: list[int] = field(init=False, default_factory=lambda: [0])

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", {slot.key: slot for slot in self.geometry.slots})

    @cached_property
    def _parts(self) -> dict[int, torch.Tensor]:
        """The flat vectors cut into the slots' parts in one operation, by where a part starts."""
        return self.geometry.parts(self.vectors.detach())

    @cached_property
    def _row_parts(self) -> dict[int, torch.Tensor]:
        return {} if self.rows is None else self.geometry.parts(self.rows)

    def factors(self, slot: Slot, dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return A ``(tenants, r, d_in)``, where it is trained, and s·C or s·R ``(tenants, r, d_out or r)``."""
        if slot.key not in self._factors:
            shape = (len(self.vectors), self.geometry.rank, -1)
            down = None if slot.down is None else self._parts[slot.down.start].view(shape).to(dtype)
            up = self._parts[slot.up.start].view(shape).to(dtype)
            if self.geometry.scaling != 1.0:
                up = up * self.geometry.scaling
            self._factors[slot.key] = down, up
        return self._factors[slot.key]

    def keep(self, part: slice, gradient: torch.Tensor, factor: float = 1.0) -> None:
        """Store ``factor`` times the per-user gradients ``(users, r, n)`` of one part of the flat vector."""
        if self.rows is not None:
            place = self._row_parts[part.start].view(gradient.shape)
            if factor == 1.0:
                place.copy_(gradient)
            else:
                torch.mul(gradient, factor, out=place)
            self._written[0] += part.stop - part.start

    def check_complete(self) -> None:
        """Make sure that every part of every user's row was written exactly once.

        Raises:
            NotTrainedError: the backward pass missed or repeated a layer.
        """
        if self._written[0] != self.geometry.size:
            raise NotTrainedError(
                f"the backward pass wrote {self._written[0]} of {self.geometry.size} gradient entries per user; "
                "nothing is released"
            )


def adapted_linear(
    binding: Binding,
    slot: Slot,
    groups: TokenGroups,
    values: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Apply the frozen linear layer and each tenant's update to ``values (tokens, d_in)``."""
    out: torch.Tensor = _AdaptedLinear.apply(values, binding.vectors, weight, bias, binding, slot, groups)
    return out


class _AdaptedLinear(torch.autograd.Function):
    # The adapter vectors are an argument only so that autograd records the node: their gradient is never formed as
    # a sum over users, it is written per user into `binding.rows`.

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        vectors: torch.Tensor,  # noqa: ARG004  see above
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        binding: Binding,
        slot: Slot,
        groups: TokenGroups,
    ) -> torch.Tensor:
        geometry, tenants = binding.geometry, groups.tenants
        out = F.linear(values, weight, bias)
        down, up = binding.factors(slot, values.dtype)
        if down is not None:
            hidden = tenants.multiply(values, down.transpose(1, 2))
        else:
            hidden = values @ binding.frozen[slot.key][0].t()
        if geometry.family is Family.CORE:
            out.addmm_(tenants.multiply(hidden, up), binding.frozen[slot.key][1])
        else:
            tenants.add_product(out, hidden, up)
        ctx.binding, ctx.slot, ctx.groups, ctx.weight = binding, slot, groups, weight
        ctx.save_for_backward(hidden, values if geometry.family is Family.FULL else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        binding: Binding = ctx.binding
        slot: Slot = ctx.slot
        groups: TokenGroups = ctx.groups
        geometry, tenants, users = binding.geometry, groups.tenants, groups.users
        hidden, values = ctx.saved_tensors
        gradient = gradient.contiguous()
        down, up = binding.factors(slot, gradient.dtype)
        if geometry.family is Family.CORE:
            back = gradient @ binding.frozen[slot.key][1].t()
            binding.keep(slot.up, users.outer(hidden, back), geometry.scaling)
        else:
            binding.keep(slot.up, users.outer(hidden, gradient), geometry.scaling)
            back = gradient
        back = tenants.multiply(back, up.transpose(1, 2))
        if slot.down is not None:
            binding.keep(slot.down, users.outer(back, values))
        if not ctx.needs_input_grad[0]:
            return (None,) * 7
        below = gradient @ ctx.weight
        if down is None:
            below.addmm_(back, binding.frozen[slot.key][0])
        else:
            tenants.add_product(below, back, down)
        return (below, *((None,) * 6))
