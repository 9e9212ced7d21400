"""A plain LoRA on linear layers of all blocks, without any privacy: for made-up and public text, or as a bound.

It is what ``peft`` trains with rank r (A Kaiming-uniform, B zero, AdamW, a linear warm-up and a
linear fall of the rate), on the flat engine: rows lie back to back, the last layer and the head see labels only, and
on a processor with bfloat16 instructions the frozen base multiplies in bfloat16, as a GPU would; the trained numbers
and the optimizer stay in float32. On a tenant's own texts nothing that comes out may be released.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from personalization.planning.plan import Family, Objective
from personalization.training.engine.batches import Member, assemble
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenExample, TokenUser
from personalization.training.engine.families import Geometry, Slot
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.shared_opening import SharedOpening, shared_opening
from personalization.training.jobs.job import Example, UserExamples

WEIGHT_DECAY = 0.01
WARM_UP = 0.05  # of the steps
DRAWN_AT_ONCE = 16  # examples; one pass through the base is quicker for many


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


def every_linear(
    decoder: FrozenDecoder, *, rank: int, alpha: float, but: Collection[tuple[int, str]] = ()
) -> Geometry:
    """Return the layout of a LoRA, both factors trained, on all linear layers but the given ones."""
    slots: list[Slot] = []
    at = 0
    for (layer, suffix), (d_in, d_out) in decoder.shapes.items():
        if (layer, suffix) in but:
            continue
        down = slice(at, at + rank * d_in)
        up = slice(down.stop, down.stop + rank * d_out)
        slots.append(Slot(layer, suffix, d_in, d_out, down, up))
        at = up.stop
    layers = tuple(sorted({slot.layer for slot in slots}))
    return Geometry(Family.FULL, rank, alpha, layers, tuple(slots), at)


@dataclass(frozen=True, eq=False)
class AnchoredBatch:
    """Examples of one step; some of their labels are learned in part from the base's own distribution.

    Attributes:
        examples: of one row each.
        counts: of each label's own token, in order: 1, or less where the rest is learned from the base.
        draws: tokens that the base drew at each label that counts less ``(those labels, draws)``; they share what is
            left of 1.
    """

    examples: TokenUser
    counts: tuple[float, ...]
    draws: torch.Tensor


class PlainLora:
    """Trains plain LoRAs on a base that is loaded.

    Args:
        decoder: the plain base.
        encoder: its tokenizer.
        half: whether to multiply in bfloat16 where the processor has instructions for it.
    """

    def __init__(self, decoder: FrozenDecoder, encoder: Encoder, *, half: bool = True) -> None:
        self._decoder = SharedOpening.of(decoder, half=half)
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
        encoded = self.encoded(examples, recipe.max_tokens)
        parameter = torch.nn.Parameter(initial(geometry, recipe.seed).to(self._decoder.device))
        optimizer = torch.optim.AdamW([parameter], lr=recipe.rate, weight_decay=WEIGHT_DECAY)
        order = random.Random(recipe.seed)  # noqa: S311  an order of examples, no secret
        total, step = recipe.epochs * math.ceil(len(encoded) / recipe.batch), 0
        for _ in range(recipe.epochs):
            order.shuffle(encoded)
            for at in range(0, len(encoded), recipe.batch):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate * share_of_rate(step + 0.5, total)
                batch = TokenUser(tuple(encoded[at : at + recipe.batch]))
                parameter.grad = self.gradient(parameter.detach(), geometry, batch)
                optimizer.step()
                step += 1
                progress(step, total)
        return parameter.detach(), geometry

    def gradient(
        self, vector: torch.Tensor, geometry: Geometry, batch: TokenUser | AnchoredBatch
    ) -> torch.Tensor:
        """Return the gradient ``(size,)`` of the mean over examples of the mean loss of their labels."""
        rows = torch.empty((1, geometry.size), device=vector.device, dtype=vector.dtype)
        binding = Binding(geometry, {}, vector[None].requires_grad_(), rows)
        torch.autograd.backward(self._mean_loss(binding, batch))
        binding.check_complete()
        return rows[0]

    @torch.no_grad()
    def loss(
        self, vector: torch.Tensor, geometry: Geometry, batches: Sequence[TokenUser | AnchoredBatch]
    ) -> float:
        """Return the mean over batches of the mean over examples of the mean loss of their labels (nats)."""
        binding = Binding(geometry, {}, vector[None], None)
        return fmean(float(self._mean_loss(binding, batch)) for batch in batches)

    def encoded(self, examples: Sequence[Example], max_tokens: int) -> list[TokenExample]:
        """Return examples as rows, each truncated by itself."""
        found: list[TokenExample] = []
        for example in examples:
            user = UserExamples(examples=(example,))
            found += self._encoder.user(
                user, bound=1, objective=Objective.SFT, max_tokens=max_tokens
            ).examples
        return found

    def anchored(
        self,
        texts: Sequence[tuple[TokenExample, Sequence[float]]],
        draws: int,
        coins: torch.Generator,
        *,
        size: int,
    ) -> list[AnchoredBatch]:
        """Return examples and the counts of their labels in batches, with tokens that the base draws at some labels.

        Args:
            texts: examples of one row each, with the count of each label.
            draws: tokens drawn at each label that counts less than 1.
            coins: on the CPU; public.
            size: examples of one batch.
        """
        drawn = [torch.empty((0, draws), dtype=torch.long)] * len(texts)
        asked = [number for number, (_, counts) in enumerate(texts) if any(count < 1 for count in counts)]
        for at in range(0, len(asked), DRAWN_AT_ONCE):
            some = asked[at : at + DRAWN_AT_ONCE]
            found = self._drawn([texts[number] for number in some], draws, coins)
            for number, tokens in zip(some, found, strict=True):
                drawn[number] = tokens
        return [
            AnchoredBatch(
                TokenUser(tuple(example for example, _ in texts[at : at + size])),
                tuple(one for _, counts in texts[at : at + size] for one in counts),
                torch.cat(drawn[at : at + size]),
            )
            for at in range(0, len(texts), size)
        ]

    @torch.no_grad()
    def _drawn(
        self, texts: Sequence[tuple[TokenExample, Sequence[float]]], draws: int, coins: torch.Generator
    ) -> list[torch.Tensor]:
        """Return what the base draws at the labels of each text that count less ``(those labels, draws)``."""
        less = [torch.tensor([count < 1 for count in counts]) for _, counts in texts]
        examples = TokenUser(tuple(example for example, _ in texts))
        micro = assemble([Member(0, examples, ())], self._decoder.device, torch.float32)
        flat, tokens = self._decoder.opened_once(micro, shared_opening(examples.examples))
        every = range(self._decoder.layer_count)
        out = self._decoder.run(self._decoder.embed(tokens), flat, every, labels_only=True)
        found = self._decoder.head.drawn_labels(out[torch.cat(less).to(out.device)], coins, draws=draws)
        return list(torch.split(found.cpu(), [int(one.sum()) for one in less]))

    def tokens_of(self, text: str) -> list[int]:
        """Return the tokens of a text without a template around it."""
        return list(self._encoder.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _mean_loss(self, binding: Binding, batch: TokenUser | AnchoredBatch) -> torch.Tensor:
        examples = batch.examples if isinstance(batch, AnchoredBatch) else batch
        micro = assemble([Member(0, examples, ())], self._decoder.device, torch.float32)
        flat, tokens = self._decoder.opened_once(micro, shared_opening(examples.examples))
        hidden = self._decoder.embed(tokens)
        every = range(self._decoder.layer_count)
        out = self._decoder.run(hidden, flat, every, binding, labels_only=True)
        targets, shares = micro.batch.targets, None
        if isinstance(batch, AnchoredBatch) and min(batch.counts) < 1:
            targets, shares = _shared_out(targets, batch)
        return micro.terms.total(self._decoder.head.label_nll(out, targets, shares=shares), None)


def _shared_out(own: torch.Tensor, batch: AnchoredBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that each label is learned from ``(labels, 1 + draws)``, and their shares of its loss."""
    counts = torch.tensor(batch.counts, device=own.device)
    draws = batch.draws.to(own.device)
    tokens = own[:, None].repeat(1, 1 + draws.shape[1])
    tokens[counts < 1, 1:] = draws
    rest = ((1 - counts) / draws.shape[1])[:, None].expand(-1, draws.shape[1])
    return tokens, torch.cat([counts[:, None], rest], 1)


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


def share_of_rate(step: float, total: int) -> float:
    """Return the share of the largest rate at a step: up in a line at first, then down in one to nothing."""
    warm = max(1.0, WARM_UP * total)
    return step / warm if step < warm else (total - step) / (total - warm) if total > warm else 1.0
