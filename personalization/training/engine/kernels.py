"""Frozen elementwise parts of a decoder layer with hand-written backward passes.

The base is frozen, so their weights need no gradient; each function saves only what its own backward pass reads, which
is less than automatic differentiation of the reference formulas keeps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def rms_norm(values: torch.Tensor, module: nn.Module, *, unit_offset: bool) -> torch.Tensor:
    """Apply a frozen RMS norm over the last dimension, in at least float32.

    Args:
        values: ``(…, width)``.
        module: a transformers RMS norm; its ``weight`` and epsilon are used.
        unit_offset: the scale is ``1 + weight`` and applied before rounding (Gemma) instead of ``weight`` (Llama).
    """
    frozen: Any = module
    epsilon = frozen.variance_epsilon if hasattr(module, "variance_epsilon") else frozen.eps
    out: torch.Tensor = _RmsNorm.apply(values, frozen.weight, float(epsilon), unit_offset)
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, weight: torch.Tensor, epsilon: float, unit_offset: bool
    ) -> torch.Tensor:
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        length: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().add_(epsilon * wide.shape[-1]).rsqrt_().mul_(math.sqrt(wide.shape[-1]))
        ctx.save_for_backward(values, weight, inverse)
        ctx.unit_offset = unit_offset
        scaled = wide * inverse
        if unit_offset:
            return scaled.mul_(1.0 + weight.to(wide.dtype)).to(values.dtype)
        return scaled.to(values.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        values, weight, inverse = ctx.saved_tensors
        scale = weight.to(inverse.dtype)
        if ctx.unit_offset:
            scale = scale + 1.0
        inner = gradient.to(inverse.dtype) * scale
        wide = values.to(inverse.dtype)
        total = (inner * wide).sum(-1, keepdim=True).mul_(inverse).mul_(inverse)
        towards = inner.addcmul_(wide, total, value=-1.0 / wide.shape[-1]).mul_(inverse)
        return towards.to(values.dtype), None, None, None


def gated(gate: torch.Tensor, up: torch.Tensor, activation: nn.Module) -> torch.Tensor:
    """Return ``activation(gate) · up``; SiLU keeps only its two inputs for the backward pass."""
    if isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation":
        out: torch.Tensor = _SiluGate.apply(gate, up)
        return out
    product: torch.Tensor = activation(gate) * up
    return product


class _SiluGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


def rotate(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate ``values (tokens, heads, width)`` by rotary angles.

    Args:
        values: queries or keys.
        cos: ``(tokens, 1, width)``.
        sin: the same, with the first half of the width negated.
    """
    out: torch.Tensor = _Rotate.apply(values, cos, sin)
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return (values * cos).addcmul_(values.roll(values.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        # Both halves carry equal angles, so the transpose turns the other way.
        turned = gradient.roll(gradient.shape[-1] // 2, -1)
        return (gradient * cos).addcmul_(turned, sin, value=-1), None, None


class LabelNll(torch.autograd.Function):
    """Negative log-likelihood of labels from hidden states, with logits only ever held for one chunk of labels.

    The head is frozen, so the gradient towards the hidden states is known as soon as a chunk's logits are; it is
    stored ``(labels, width)`` instead of the logits ``(labels, vocabulary)``. A head of a narrower dtype than the
    hidden states narrows only the two products with it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        shares: torch.Tensor | None,
        softcap: float | None,
        chunk: int,
    ) -> torch.Tensor:
        """Return the per-label loss ``(labels,)`` in at least float32; ``shares`` of a label's targets sum to 1."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(targets), dtype=wide, device=hidden.device)
        need = ctx.needs_input_grad[0]
        towards = torch.empty_like(hidden) if need else None
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part].to(head.dtype) @ head.t()).to(wide)
            slope = None
            if softcap is not None:
                logits = logits.div_(softcap).tanh_()
                slope = 1.0 - logits.square() if need else None
                logits.mul_(softcap)
            wanted = targets[part].view(len(logits), -1)
            chosen = logits.gather(1, wanted)
            if shares is not None:
                chosen = (chosen * shares[part]).sum(1, keepdim=True)
            highest = logits.amax(1, keepdim=True)
            weights = logits.sub_(
                highest
            ).exp_()  # probabilities up to the row's total, in the logits' own memory
            total = weights.sum(1, keepdim=True)
            losses[part] = (total.log() + highest - chosen).squeeze(1)
            if towards is not None:
                weights.scatter_add_(1, wanted, -total if shares is None else -total * shares[part])
                if slope is not None:
                    weights.mul_(slope)
                if head.dtype == towards.dtype:
                    torch.matmul(weights.div_(total).to(head.dtype), head, out=towards[part])
                else:
                    towards[part] = weights.div_(total).to(head.dtype) @ head
        if need:
            ctx.save_for_backward(towards)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale each label's stored gradient."""
        (towards,) = ctx.saved_tensors
        return (towards * gradient.to(towards.dtype)[:, None], *((None,) * 5))


class ShortlistNll(torch.autograd.Function):
    """The same over a shortlist of the vocabulary and, for each label, the label itself.

    Each label's own logit is computed by itself, from its row of the head, and stands in for its place in the
    shortlist, if it has one; so the loss of a label is a function of that label alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        own: torch.Tensor,
        places: torch.Tensor,
        softcap: float | None,
        chunk: int,
    ) -> torch.Tensor:
        """Return the per-label loss ``(labels,)`` in at least float32.

        Args:
            ctx: of automatic differentiation.
            hidden: ``(labels, width)``.
            head: the shortlist's rows of the head.
            own: the labels' rows of the head ``(labels, width)``.
            places: each label's place in the shortlist, or −1 ``(labels,)``.
            softcap: of the logits.
            chunk: labels at a time.
        """
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        need = ctx.needs_input_grad[0]
        towards = torch.empty_like(hidden) if need else None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            rows = own[part].to(wide)
            logits = (hidden[part].to(head.dtype) @ head.t()).to(wide)
            chosen = (hidden[part].to(wide) * rows).sum(1, keepdim=True)
            slope: torch.Tensor | float = 1.0
            own_slope: torch.Tensor | float = 1.0
            if softcap is not None:
                logits, chosen = logits.div_(softcap).tanh_(), chosen.div_(softcap).tanh_()
                slope, own_slope = 1.0 - logits.square(), 1.0 - chosen.square()
                logits.mul_(softcap)
                chosen.mul_(softcap)
            listed = places[part] >= 0
            logits[listed.nonzero()[:, 0], places[part][listed]] = -torch.inf
            highest = torch.maximum(logits.amax(1, keepdim=True), chosen)
            weights = logits.sub_(highest).exp_()
            own_weight = (chosen - highest).exp_()
            total = weights.sum(1, keepdim=True).add_(own_weight)
            losses[part] = (total.log() + highest - chosen).squeeze(1)
            if towards is not None:
                others = (weights.div_(total) * slope).to(head.dtype) @ head
                towards[part] = others.to(wide).add_((own_weight / total - 1.0) * own_slope * rows)
        if need:
            ctx.save_for_backward(towards)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:
        """Scale each label's stored gradient."""
        (towards,) = ctx.saved_tensors
        return towards * gradient.to(towards.dtype)[:, None], None, None, None, None, None
