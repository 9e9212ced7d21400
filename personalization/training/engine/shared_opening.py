"""What all rows of a batch begin with, a chat template's first turns mostly, passes through the base once for all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from personalization.training.engine.decoder import FrozenDecoder, TokenBatch
from personalization.training.engine.encoding import TokenExample
from personalization.training.engine.low_rank import TokenGroups
from personalization.training.engine.output_head import native_bfloat16
from personalization.training.engine.segments import Segments

if TYPE_CHECKING:
    from personalization.training.engine.batches import MicroBatch  # it reads prefixes through this module


class SharedOpening(FrozenDecoder):
    """A base for batches whose rows all begin with the same tokens, as a chat template makes them.

    Those tokens pass through the model once for the whole batch, before all rows; each row attends to them as if they
    were its own. Gradients are those of the rows written out in full.
    """

    @classmethod
    def of(cls, decoder: FrozenDecoder, *, half: bool) -> SharedOpening:
        """Return a copy of a base, in bfloat16 if ``half`` asks for it and a CPU has instructions for it."""
        if half and decoder.device.type == "cpu" and decoder.dtype == torch.float32 and native_bfloat16():
            return cls(copy.deepcopy(decoder.model), decoder.device, torch.bfloat16)
        return cls(decoder.model, decoder.device, decoder.dtype)

    def opened_once(self, micro: MicroBatch, shared: int) -> tuple[TokenBatch, torch.Tensor]:
        """Return a batch whose rows' first ``shared`` tokens, the same in all, stand once before all rows.

        Its tokens count as one user's. A base with a soft cap in its attention reads them in every row.

        Returns:
            The batch for ``run`` and its tokens ``(tokens,)``.
        """
        batch, kept = self._kept_once(micro, shared)
        return batch, micro.tokens[kept]

    def prefix(
        self,
        micro: MicroBatch,
        shared: int,
        layers: range,
        *,
        half: bool = False,
        entering: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the hidden states after some layers of the plain base ``(tokens, width)``, every row in full.

        Args:
            micro: rows of any users, each of more than ``shared`` tokens.
            shared: tokens that all of them begin with.
            layers: consecutive ones.
            half: as in ``run``.
            entering: the input of the first of ``layers`` ``(tokens, width)``, every row in full; None embeds tokens.
        """
        batch, kept = self._kept_once(micro, shared)
        hidden = self.embed(micro.tokens[kept]) if entering is None else entering[kept]
        out = self.run(hidden, batch, layers, half=half)
        once = len(out) - batch.rows.tokens
        rows = torch.split(out[once:], batch.rows.lengths)
        return torch.cat([part for row in rows for part in (out[:once], row)])

    def _kept_once(self, micro: MicroBatch, shared: int) -> tuple[TokenBatch, torch.Tensor]:
        return _opened_once(micro, 0 if self._softcap is not None else shared)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        batch: TokenBatch,
        scaling: float,
        *,
        narrow: bool,
    ) -> torch.Tensor:
        if self._softcap is not None:
            return super()._attend(query, key, value, batch, scaling, narrow=narrow)
        # Half kernels of attention are slow on a CPU; the products beside it are most of the work.
        wide = torch.promote_types(query.dtype, torch.float32)
        dtype, (query, key, value) = query.dtype, (part.to(wide) for part in (query, key, value))
        shared = len(key) - batch.rows.tokens
        asking, asked = (batch.labels, query) if narrow else (batch.rows, query[shared:])
        queries = asking.pad(asked).transpose(1, 2)
        keys, values = (
            torch.cat([part[:shared].expand(batch.rows.count, -1, -1, -1), batch.rows.pad(part[shared:])], 1)
            for part in (key, value)
        )
        at = batch.positions.index_select(0, batch.label_at) if narrow else batch.positions[shared:]
        reach = torch.arange(keys.shape[1], device=self.device)
        seen = (reach <= asking.pad(at[:, None]))[:, None]  # (rows, 1, queries, keys)
        mixed = _attention(queries, keys.transpose(1, 2), values.transpose(1, 2), scaling, mask=seen)
        out = asking.unpad(mixed.transpose(1, 2))
        if not narrow and shared:
            ask, know, tell = (part[:shared].transpose(0, 1)[None] for part in (query, key, value))
            out = torch.cat([_attention(ask, know, tell, scaling)[0].transpose(0, 1), out])
        return out.to(dtype)


def _attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(repeats, 1) if repeats > 1 else part for part in (keys, values))
    return torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling
    )


def _opened_once(micro: MicroBatch, shared: int) -> tuple[TokenBatch, torch.Tensor]:
    lengths, device = micro.batch.rows.lengths, micro.tokens.device
    starts = list(accumulate(lengths[:-1], initial=0))
    kept = torch.cat(
        [torch.arange(shared)]
        + [
            torch.arange(start + shared, start + length)
            for start, length in zip(starts, lengths, strict=True)
        ]
    ).to(device)
    place = torch.full((len(micro.tokens),), -1, dtype=torch.long, device=device)
    place[kept] = torch.arange(len(kept), device=device)
    one = Segments([len(kept)], device)
    batch = replace(
        micro.batch,
        rows=Segments([length - shared for length in lengths], device),
        groups=TokenGroups(one, one),
        positions=micro.batch.positions[kept],
        label_at=place[micro.batch.label_at],
    )
    return batch, kept


def shared_opening(examples: Sequence[TokenExample]) -> int:
    """Return how many tokens all rows begin with, none of them a label or the token before one."""
    rows = [row for example in examples for row in example.rows]
    most = min(row.first_label - 1 for row in rows)
    first = rows[0].tokens
    return next((at for at in range(most) if any(row.tokens[at] != first[at] for row in rows)), most)
