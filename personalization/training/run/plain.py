"""A plain LoRA on every linear layer, without any privacy: what anybody would train who had no promise to keep.

It is what ``peft`` trains with rank r on all linear layers (A Kaiming-uniform, B zero, AdamW, a linear warm-up and a
linear fall of the rate), on the flat engine: rows lie back to back, the last layer and the head see labels only, and
on a processor with bfloat16 instructions the frozen base multiplies in bfloat16, as a GPU would; the trained numbers
and the optimizer stay in float32. On a tenant's own texts nothing that comes out may be released.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from personalization.planning.plan import Family, Objective
from personalization.training.engine.batches import Member, assemble
from personalization.training.engine.decoder import FrozenDecoder, TokenBatch
from personalization.training.engine.encoding import Encoder, TokenExample, TokenUser
from personalization.training.engine.families import Geometry, Slot
from personalization.training.engine.low_rank import Binding
from personalization.training.jobs.job import Example, UserExamples

WEIGHT_DECAY = 0.01
WARM_UP = 0.05  # of the steps


@dataclass(frozen=True, kw_only=True)
class PlainRecipe:
    """How a plain LoRA is trained.

    Attributes:
        rank: r.
        alpha: LoRA alpha.
        rate: the largest of the run.
        epochs: passes over the examples.
        batch: examples of one step.
        max_tokens: truncation of one example.
        seed: of the start and the order.
    """

    rank: int = 8
    alpha: float = 16.0
    rate: float = 1e-3
    epochs: int = 2
    batch: int = 16
    max_tokens: int = 72
    seed: int = 0


def every_linear(decoder: FrozenDecoder, *, rank: int, alpha: float) -> Geometry:
    """Return the layout of a LoRA on all linear layers, both factors trained."""
    slots: list[Slot] = []
    at = 0
    for (layer, suffix), (d_in, d_out) in decoder.shapes.items():
        down = slice(at, at + rank * d_in)
        up = slice(down.stop, down.stop + rank * d_out)
        slots.append(Slot(layer, suffix, d_in, d_out, down, up))
        at = up.stop
    return Geometry(Family.FULL, rank, alpha, tuple(range(decoder.layer_count)), tuple(slots), at)


class HalfDecoder(FrozenDecoder):
    """A copy of a base whose products run in bfloat16 on a CPU; attention, slow in half, in float32."""

    @classmethod
    def of(cls, decoder: FrozenDecoder) -> FrozenDecoder:
        """Return a half-width copy where that is faster, else the decoder itself."""
        native = torch.cpu.get_capabilities()
        if decoder.device.type != "cpu" or not (native.get("avx512_bf16") or native.get("amx_bf16")):
            return decoder
        if decoder.dtype != torch.float32:
            return decoder
        return cls(copy.deepcopy(decoder.model), decoder.device, torch.bfloat16)

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
        mixed = super()._attend(query.float(), key.float(), value.float(), batch, scaling, narrow=narrow)
        return mixed.to(query.dtype)


class PlainLora:
    """Trains plain LoRAs on a base that is loaded.

    Args:
        decoder: the plain base.
        encoder: its tokenizer.
        half: whether to multiply in bfloat16 where the processor has instructions for it.
    """

    def __init__(self, decoder: FrozenDecoder, encoder: Encoder, *, half: bool = True) -> None:
        self._decoder = HalfDecoder.of(decoder) if half else decoder
        self._encoder = encoder

    def train(
        self,
        examples: Sequence[Example],
        recipe: PlainRecipe,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> tuple[torch.Tensor, Geometry]:
        """Return the flat vector ``(size,)``, float32, and its layout.

        Args:
            examples: every example counts alike, each token of it too.
            recipe: rate, length and shape.
            progress: gets steps done and steps in all.
        """
        geometry = every_linear(self._decoder, rank=recipe.rank, alpha=recipe.alpha)
        encoded = [self._encoded(example, recipe.max_tokens) for example in examples]
        parameter = torch.nn.Parameter(initial(geometry, recipe.seed))
        optimizer = torch.optim.AdamW([parameter], lr=recipe.rate, weight_decay=WEIGHT_DECAY)
        order = random.Random(recipe.seed)  # noqa: S311  an order of examples, no secret
        total, step = recipe.epochs * math.ceil(len(encoded) / recipe.batch), 0
        for _ in range(recipe.epochs):
            order.shuffle(encoded)
            for at in range(0, len(encoded), recipe.batch):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate * _share_of_rate(step + 0.5, total)
                batch = TokenUser(tuple(encoded[at : at + recipe.batch]))
                parameter.grad = self.gradient(parameter.detach(), geometry, batch)
                optimizer.step()
                step += 1
                progress(step, total)
        return parameter.detach(), geometry

    def gradient(self, vector: torch.Tensor, geometry: Geometry, batch: TokenUser) -> torch.Tensor:
        """Return the gradient ``(size,)`` of the mean over examples of the mean loss of their labels."""
        micro = assemble([Member(0, batch, ())], self._decoder.device, torch.float32)
        rows = torch.empty((1, geometry.size), device=vector.device, dtype=vector.dtype)
        binding = Binding(geometry, {}, vector[None].requires_grad_(), rows)
        hidden = self._decoder.embed(micro.tokens)
        every = range(self._decoder.layer_count)
        out = self._decoder.run(hidden, micro.batch, every, binding, labels_only=True)
        nll = self._decoder.head.label_nll(out, micro.batch.targets)
        torch.autograd.backward(micro.terms.total(nll, None))
        binding.check_complete()
        return rows[0]

    def _encoded(self, example: Example, max_tokens: int) -> TokenExample:
        user = UserExamples(examples=(example,))
        (found,) = self._encoder.user(user, bound=1, objective=Objective.SFT, max_tokens=max_tokens).examples
        return found


def initial(geometry: Geometry, seed: int) -> torch.Tensor:
    """Return a start that changes nothing: A Kaiming-uniform as ``peft`` draws it, B zero; float32."""
    coins = torch.Generator().manual_seed(seed)
    vector = torch.zeros(geometry.size)
    for slot in geometry.slots:
        if slot.down is not None:
            size = slot.down.stop - slot.down.start
            vector[slot.down] = (torch.rand(size, generator=coins) * 2 - 1) / math.sqrt(slot.d_in)
    return vector


def without_frozen(geometry: Geometry) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """Return the frozen factors of a layout that trains both: nothing reads them."""
    return {slot.key: (torch.empty(0), torch.empty(0)) for slot in geometry.slots}


def _share_of_rate(step: float, total: int) -> float:
    warm = max(1.0, WARM_UP * total)
    return step / warm if step < warm else (total - step) / (total - warm) if total > warm else 1.0
