"""A linear layer of the frozen base with a low-rank update per tenant and an exact gradient per user.

The backward pass computes ``dA_u = Σ uᵀ x`` and ``dC_u = Σ hᵀ g`` over the tokens of each user: the same products that
a non-private backward pass needs, only summed per user instead of over the whole batch. The sums go straight into
``Binding.rows``, one row per user, which Opacus then clips. Source: Book-Keeping (arXiv 2210.00038) restated for
low-rank factors, where materializing the per-user gradient is the cheapest exact form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from personalization.plan import Family
from personalization.training.families import Frozen, Geometry, Slot
from personalization.training.segments import Segments


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", {slot.key: slot for slot in self.geometry.slots})

    def up(self, slot: Slot, dtype: torch.dtype) -> torch.Tensor:
        """Return C (or R) of each tenant present: ``(tenants, r, d_out or r)``."""
        return self.vectors.detach()[:, slot.up].view(len(self.vectors), self.geometry.rank, -1).to(dtype)

    def down(self, slot: Slot, dtype: torch.dtype) -> torch.Tensor:
        """Return the trained A of each tenant present: ``(tenants, r, d_in)``."""
        return self.vectors.detach()[:, slot.down].view(len(self.vectors), self.geometry.rank, -1).to(dtype)

    def keep(self, part: slice, gradient: torch.Tensor) -> None:
        """Store per-user gradients ``(users, r, n)`` of one part of the flat vector."""
        if self.rows is not None:
            self.rows[:, part].view(gradient.shape).copy_(gradient)


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
        if geometry.family is Family.FULL:
            down = binding.down(slot, values.dtype)
            hidden = tenants.multiply(values, down.transpose(1, 2))
        else:
            hidden = values @ binding.frozen[slot.key][0].t()
        hidden = hidden.mul_(geometry.scaling)
        up = binding.up(slot, values.dtype)
        if geometry.family is Family.CORE:
            out.addmm_(tenants.multiply(hidden, up), binding.frozen[slot.key][1])
        elif tenants.count == 1:
            out.addmm_(hidden, up[0])
        else:
            out.add_(tenants.multiply(hidden, up))
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
        up = binding.up(slot, gradient.dtype)
        if geometry.family is Family.CORE:
            back = gradient @ binding.frozen[slot.key][1].t()
            binding.keep(slot.up, users.outer(hidden, back))
        else:
            binding.keep(slot.up, users.outer(hidden, gradient))
            back = gradient
        back = tenants.multiply(back, up.transpose(1, 2)).mul_(geometry.scaling)
        if slot.down is not None:
            binding.keep(slot.down, users.outer(back, values))
        if not ctx.needs_input_grad[0]:
            return (None,) * 7
        below = gradient @ ctx.weight
        if geometry.family is not Family.FULL:
            below.addmm_(back, binding.frozen[slot.key][0])
        elif tenants.count == 1:
            below.addmm_(back, binding.down(slot, gradient.dtype)[0])
        else:
            below.add_(tenants.multiply(back, binding.down(slot, gradient.dtype)))
        return (below, *((None,) * 6))
