"""Matrix products over contiguous token ranges: the one operation behind many tenants and exact user gradients.

A fused batch is a flat list of tokens. Tenants and users are contiguous ranges (*segments*) of it. ``multiply`` uses
another weight in each segment (tenants); ``outer`` sums another gradient in each segment (users). Both are one call
whatever the number of segments: a batched product when all segments are equally long, ``grouped_mm`` when they are
ragged and the dtype allows it, and a padded batched product otherwise.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F

_GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Segments:
    """Contiguous, non-empty ranges that together cover ``tokens`` rows of a matrix.

    Args:
        lengths: tokens of each segment, in order; each at least 1.
        device: where the index tensors live.
    """

    def __init__(self, lengths: list[int], device: torch.device | str = "cpu") -> None:
        self.lengths = lengths
        self.count = len(lengths)
        self.tokens = sum(lengths)
        self.longest = max(lengths, default=0)
        self.device = torch.device(device)
        self.uniform = all(length == self.longest for length in lengths)

    @cached_property
    def ends(self) -> torch.Tensor:
        """End of each segment, int32, as ``grouped_mm`` wants it."""
        lengths = torch.tensor(self.lengths, dtype=torch.int32)
        return lengths.cumsum(0, dtype=torch.int32).to(self.device)

    @cached_property
    def of_token(self) -> torch.Tensor:
        """Segment number of each token, int64 ``(tokens,)``."""
        lengths = torch.tensor(self.lengths)
        return torch.repeat_interleave(torch.arange(self.count), lengths).to(self.device)

    @cached_property
    def _slots(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Padded form: source token of each slot, whether the slot is padding, and the slot of each token."""
        lengths = torch.tensor(self.lengths)
        starts = lengths.cumsum(0) - lengths
        offset = torch.arange(self.longest)
        padding = offset[None, :] >= lengths[:, None]
        source = torch.where(padding, 0, starts[:, None] + offset[None, :]).flatten()
        token_slots = torch.nonzero(~padding.flatten()).flatten()
        return source.to(self.device), padding.flatten().to(self.device), token_slots.to(self.device)

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """Spread ``(tokens, …)`` into ``(count, longest, …)``; slots without a token are exactly zero."""
        shape = (self.count, self.longest, *values.shape[1:])
        if self.uniform:
            return values.reshape(shape)
        spread: torch.Tensor = _Pad.apply(values, *self._slots)
        return spread.view(shape)

    def unpad(self, values: torch.Tensor) -> torch.Tensor:
        """Undo ``pad``: ``(count, longest, …)`` back to ``(tokens, …)``."""
        flat = values.flatten(0, 1)
        if self.uniform:
            return flat
        taken: torch.Tensor = _Unpad.apply(flat, *self._slots)
        return taken

    def multiply(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Multiply the tokens ``(tokens, k)`` of each segment by its own matrix of ``weights (count, k, n)``."""
        if self.uniform:
            return torch.bmm(self.pad(values), weights).flatten(0, 1)
        if self._grouped(values, weights):
            return F.grouped_mm(values, weights, offs=self.ends)
        return self.unpad(torch.bmm(self.pad(values), weights))

    def add_product(self, out: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> None:
        """Add ``multiply(values, weights)`` to ``out (tokens, n)`` in place."""
        if self.uniform:
            out.view(self.count, self.longest, -1).baddbmm_(self.pad(values), weights)
        else:
            out.add_(self.multiply(values, weights))

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Sum ``leftᵀ right`` within each segment: ``(tokens, k)``, ``(tokens, n)`` → ``(count, k, n)``."""
        if self.uniform:
            return torch.bmm(self.pad(left).transpose(1, 2), self.pad(right))
        if self._grouped(left, right):
            return F.grouped_mm(left.t(), right, offs=self.ends)
        return torch.bmm(self.pad(left).transpose(1, 2), self.pad(right))

    def _grouped(self, left: torch.Tensor, right: torch.Tensor) -> bool:
        # grouped_mm wants rows of a multiple of 16 bytes.
        rows = (left.shape[-1] * left.element_size(), right.shape[-1] * right.element_size())
        aligned = all(size % 16 == 0 for size in rows) and left.is_contiguous() and right.is_contiguous()
        return aligned and left.dtype in _GROUPED_DTYPES and left.dtype == right.dtype


class _Pad(torch.autograd.Function):
    """Gather tokens into padded slots; the backward pass is the opposite gather, not a scatter."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        values: torch.Tensor,
        source: torch.Tensor,
        padding: torch.Tensor,
        token_slots: torch.Tensor,
    ) -> torch.Tensor:
        ctx.token_slots = token_slots  # type: ignore[attr-defined]
        # masked_fill, not a product: zero times an infinite token of another user would be NaN.
        shape = (-1, *([1] * (values.dim() - 1)))
        return values.index_select(0, source).masked_fill_(padding.view(shape), 0)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        return gradient.index_select(0, ctx.token_slots), None, None, None  # type: ignore[attr-defined]


class _Unpad(torch.autograd.Function):
    """Take the tokens out of padded slots; padding slots receive a zero gradient."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        values: torch.Tensor,
        source: torch.Tensor,
        padding: torch.Tensor,
        token_slots: torch.Tensor,
    ) -> torch.Tensor:
        ctx.source, ctx.padding = source, padding  # type: ignore[attr-defined]
        return values.index_select(0, token_slots)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        shape = (-1, *([1] * (gradient.dim() - 1)))
        padding: torch.Tensor = ctx.padding  # type: ignore[attr-defined]
        spread = gradient.index_select(0, ctx.source)  # type: ignore[attr-defined]
        return spread.masked_fill_(padding.view(shape), 0), None, None, None
