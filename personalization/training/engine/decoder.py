"""The frozen base model as functions over a flat list of tokens.

Rows of all tenants and users lie back to back without padding; every linear layer sees one matrix of tokens. Only
attention looks at rows: it spreads them into a rectangle, where a causal mask alone keeps real tokens from padding
(block-diagonal attention by construction). Weights come from a transformers model of the Llama, Mistral, Qwen or
Gemma style, and results equal that model's (tests/unit/personalization/training/engine/test_reload.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from personalization.planning.plan import ALL_LINEAR
from personalization.training.engine.families import Shapes
from personalization.training.engine.kernels import gated, rms_norm, rotate
from personalization.training.engine.low_rank import Binding, TokenGroups, adapted_linear
from personalization.training.engine.output_head import OutputHead, native_bfloat16
from personalization.training.engine.segments import Segments
from personalization.training.errors import BaseModelError, JobInvalidError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class TokenBatch:
    """Rows of one micro-batch, users inside tenants, rows inside users.

    Attributes:
        rows: tokens of each row.
        groups: tenants and users over all tokens.
        positions: position of each token in its row ``(tokens,)``.
        label_at: token whose next token is a target ``(labels,)``, ascending.
        labels: labels of each row; every row has at least one.
        label_groups: tenants and users over the label tokens.
        targets: token to predict ``(labels,)``.
    """

    rows: Segments
    groups: TokenGroups
    positions: torch.Tensor
    label_at: torch.Tensor
    labels: Segments
    label_groups: TokenGroups
    targets: torch.Tensor


class Kept:
    """What was worked out for a base: it lives as long as the base, and is found by its class and a key."""

    def __init__(self) -> None:
        self._found: dict[tuple[type, Hashable], object] = {}

    def once(self, kind: type[_Found], key: Hashable, make: Callable[[], _Found]) -> _Found:
        """Return what ``make`` gave for this class and key; only the first call of all makes it."""
        found = self._found.get((kind, key))
        if not isinstance(found, kind):
            found = self._found[kind, key] = make()
        return found


class FrozenDecoder:
    """A base model whose weights never change.

    Args:
        model: a transformers causal language model.
        device: where it runs.
        dtype: of its weights; float32 on a CPU, bfloat16 on a GPU, float64 in exactness tests.

    Raises:
        BaseModelError: the model's style is not supported.
    """

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        checkpoint: Any = model
        self.config = checkpoint.config
        if self.config.model_type not in MODEL_TYPES:
            raise BaseModelError(
                f"the base model is of type {self.config.model_type}; supported are {', '.join(MODEL_TYPES)}"
            )
        self.model: Any = checkpoint.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.device = device
        self.dtype = dtype
        self._body: Any = self.model.model
        self._blocks: list[Any] = list(self._body.layers)
        self._unit_offset = self.config.model_type.startswith("gemma")
        self._sandwich = self.config.model_type == "gemma2"
        self._softcap: float | None = getattr(self.config, "attn_logit_softcapping", None)
        self.head = OutputHead(
            self.model.get_output_embeddings().weight,
            lambda hidden: self._norm(hidden, self._body.norm),
            getattr(self.config, "final_logit_softcapping", None),
        )
        self.kept = Kept()  # of public numbers and texts, and of what is released
        self.directory: Path | None = None  # where the base was loaded from

    @classmethod
    def load(cls, directory: Path, device: torch.device, dtype: torch.dtype) -> FrozenDecoder:
        """Load a base model from a local directory; nothing is ever fetched.

        Raises:
            BaseModelError: the directory does not hold a loadable model.
        """
        from transformers import AutoModelForCausalLM  # noqa: PLC0415  seconds to import; the child loads it once

        try:
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BaseModelError(f"no base model could be loaded from {directory}: {error}") from error
        loaded = cls(model, device, dtype)
        loaded.directory = directory
        return loaded

    @property
    def layer_count(self) -> int:
        """How many decoder layers the model has."""
        return len(self._blocks)

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def shapes(self) -> Shapes:
        """``(d_in, d_out)`` of every linear layer an adapter may sit on."""
        return {
            (index, suffix): (linear.in_features, linear.out_features)
            for index in range(self.layer_count)
            for suffix in ALL_LINEAR
            for linear in (self.linear(index, suffix),)
        }

    def longest_row(self) -> int:
        """Most tokens a row may have: within them a sliding window is the same as full attention."""
        window = getattr(self.config, "sliding_window", None)
        limit = int(self.config.max_position_embeddings)
        return min(limit, int(window)) if window else limit

    def linear(self, layer: int, suffix: str) -> Any:
        """Return the frozen linear layer of that suffix name."""
        block = self._blocks[layer]
        return getattr(
            block.self_attn if suffix in {"q_proj", "k_proj", "v_proj", "o_proj"} else block.mlp, suffix
        )

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the input of layer 0 for ``tokens (tokens,)``."""
        hidden: torch.Tensor = self._body.embed_tokens(tokens[None])[0]
        return hidden

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rotary ``cos, sin (tokens, 1, head width)`` of ``positions``, signed as ``kernels.rotate`` wants."""
        probe = torch.empty(0, device=self.device, dtype=self.dtype)
        cos, sin = self._body.rotary_emb(probe, positions[None])
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        return cos[0, :, None], signed[0, :, None]

    def run(
        self,
        hidden: torch.Tensor,
        batch: TokenBatch,
        layers: range,
        binding: Binding | None = None,
        *,
        labels_only: bool = False,
        half: bool = False,
    ) -> torch.Tensor:
        """Run some layers.

        Args:
            hidden: ``(tokens, width)``, the input of the first of ``layers``.
            batch: how tokens split into rows, users and tenants.
            layers: consecutive layer numbers.
            binding: adapters to apply; None runs the plain base.
            labels_only: the last of ``layers`` is the model's last, so compute it for the label tokens only.
            half: layers without an adapter of a float32 base may multiply in bfloat16 where the processor has
                instructions for it; residuals, norms and attention stay in float32.

        Returns:
            ``(tokens, width)``, or ``(labels, width)`` with ``labels_only``.

        Raises:
            JobInvalidError: a row is longer than the model attends to.
        """
        if batch.rows.longest > self.longest_row():
            raise JobInvalidError(
                f"a row has {batch.rows.longest} tokens; the base model attends to {self.longest_row()}"
            )
        angles = self.angles(batch.positions)
        half = half and self.dtype == torch.float32 and self.device.type == "cpu" and native_bfloat16()
        for layer in layers:
            narrow = labels_only and layer == layers[-1]
            hidden = self._block(layer, hidden, batch, angles, binding, narrow=narrow, half=half)
        return hidden

    def _norm(self, values: torch.Tensor, module: nn.Module) -> torch.Tensor:
        return rms_norm(values, module, unit_offset=self._unit_offset)

    def _block(
        self,
        layer: int,
        hidden: torch.Tensor,
        batch: TokenBatch,
        angles: tuple[torch.Tensor, torch.Tensor],
        binding: Binding | None,
        *,
        narrow: bool,
        half: bool,
    ) -> torch.Tensor:
        block = self._blocks[layer]
        groups = batch.label_groups if narrow else batch.groups

        def project(suffix: str, values: torch.Tensor, where: TokenGroups) -> torch.Tensor:
            linear = self.linear(layer, suffix)
            slot = binding.slots.get((layer, suffix)) if binding is not None else None
            if binding is None or slot is None:
                return _product(values, linear.weight, linear.bias, half=half)
            return adapted_linear(binding, slot, where, values, linear.weight, linear.bias)

        def split(values: torch.Tensor) -> torch.Tensor:
            return values.view(len(values), -1, block.self_attn.head_dim)

        normed = self._norm(hidden, block.input_layernorm)
        if narrow:
            hidden = hidden.index_select(0, batch.label_at)
            asked = normed.index_select(0, batch.label_at)
        else:
            asked = normed
        attention = block.self_attn
        query = split(project("q_proj", asked, groups))
        key = split(project("k_proj", normed, batch.groups))
        value = split(project("v_proj", normed, batch.groups))
        if hasattr(attention, "q_norm"):
            query = self._norm(query, attention.q_norm)
            key = self._norm(key, attention.k_norm)
        cos, sin = angles
        query_angles = (
            (cos.index_select(0, batch.label_at), sin.index_select(0, batch.label_at)) if narrow else angles
        )
        query, key = rotate(query, *query_angles), rotate(key, cos, sin)
        mixed = self._attend(query, key, value, batch, attention.scaling, narrow=narrow)
        mixed = project("o_proj", mixed.flatten(1), groups)
        if self._sandwich:
            hidden = hidden + self._norm(mixed, block.post_attention_layernorm)
            normed = self._norm(hidden, block.pre_feedforward_layernorm)
        else:
            hidden = hidden + mixed
            normed = self._norm(hidden, block.post_attention_layernorm)
        inner = gated(
            project("gate_proj", normed, groups), project("up_proj", normed, groups), block.mlp.act_fn
        )
        inner = project("down_proj", inner, groups)
        if self._sandwich:
            inner = self._norm(inner, block.post_feedforward_layernorm)
        return hidden + inner

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
        """Attend within rows: queries of all tokens, or of the label tokens when ``narrow``. (·, heads, width)."""
        asking = batch.labels if narrow else batch.rows
        queries = asking.pad(query).transpose(1, 2)
        keys, values = batch.rows.pad(key).transpose(1, 2), batch.rows.pad(value).transpose(1, 2)
        repeats = queries.shape[1] // keys.shape[1]
        if repeats > 1:
            keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
        hidden_keys = None
        if narrow or self._softcap is not None:
            at = batch.positions.index_select(0, batch.label_at) if narrow else batch.positions
            reach = torch.arange(batch.rows.longest, device=self.device)
            # (rows, 1, queries, keys); a padding query stands at position 0 and sees key 0.
            hidden_keys = (reach > asking.pad(at[:, None]))[:, None]
        if hidden_keys is not None and self._softcap is not None:
            scores = (queries @ keys.transpose(2, 3)).mul(scaling / self._softcap).tanh().mul(self._softcap)
            scores = scores.masked_fill(hidden_keys, float("-inf"))
            wide = torch.promote_types(scores.dtype, torch.float32)
            mixed = torch.softmax(scores, -1, dtype=wide).to(values.dtype) @ values
        elif hidden_keys is not None:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=~hidden_keys, scale=scaling
            )
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling)
        return asking.unpad(mixed.transpose(1, 2))


def _product(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, half: bool
) -> torch.Tensor:
    """Return ``values weightᵀ + bias``, of factors that are rounded to bfloat16 if ``half``."""
    if not half:
        return F.linear(values, weight, bias)
    # Narrowed for each pass: a second copy of the base would cost more memory than this costs time.
    out = F.linear(values.to(torch.bfloat16), weight.to(torch.bfloat16)).to(values.dtype)
    return out if bias is None else out.add_(bias)
