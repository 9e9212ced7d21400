"""The public part of an adapter: a plain LoRA trained on text that was made of a style card. Free, as post-processing.

It sits on every linear layer that the private part leaves alone, so the two add up exactly in one adapter. Public
questions with plain answers are rehearsed among the synthetic pairs: the model learns the style of the tenant's prompts
and keeps its own manner elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import random
from typing import TYPE_CHECKING, Final

import torch

from personalization.planning.plan import Family, Objective
from personalization.styles.frames import is_poor
from personalization.styles.synthesis import synthetic_pairs
from personalization.training.engine.batches import Member, assemble
from personalization.training.engine.encoding import TokenUser
from personalization.training.engine.families import Factors, Geometry, Slot
from personalization.training.engine.low_rank import Binding
from personalization.training.jobs.job import Example, PublicPartFacts, UserExamples
from personalization.training.public.texts import protected_users

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.styles.card import StyleCard
    from personalization.training.engine.decoder import FrozenDecoder
    from personalization.training.engine.encoding import Encoder, TokenExample

PAIRS: Final = 320  # synthetic pairs of one epoch
HELD_OUT: Final = 32  # synthetic pairs of another seed, to stop on
REHEARSED: Final = 64  # public questions among them
BATCH: Final = 16
RATE: Final = 1e-3
WARM_UP: Final = 0.1  # of the steps
_WEIGHT_DECAY: Final = 0.01
_CHECKED_FROM: Final = 0.5  # of the steps, then at every eighth of them
_TRAIN_SEED, _HELD_OUT_SEED = 1, 2


def worth_making(card: StyleCard | None) -> bool:
    """Say whether a card tells enough to make a public part of."""
    return card is not None and not is_poor(card)


def geometry_beside(decoder: FrozenDecoder, private: Geometry) -> Geometry:
    """Return the layout of a plain LoRA on every linear layer that ``private`` leaves alone, of its rank and alpha."""
    taken = {slot.key for slot in private.slots}
    slots: list[Slot] = []
    at = 0
    for (layer, suffix), (d_in, d_out) in decoder.shapes.items():
        if (layer, suffix) in taken:
            continue
        rank = private.rank
        down = slice(at, at + rank * d_in)
        up = slice(down.stop, down.stop + rank * d_out)
        slots.append(Slot(layer, suffix, d_in, d_out, down, up))
        at = up.stop
    layers = tuple(sorted({slot.layer for slot in slots}))
    return Geometry(Family.FULL, private.rank, private.alpha, layers, tuple(slots), at)


class PublicPart:
    """Trains a public part on a base that is loaded.

    Args:
        decoder: the plain base.
        encoder: its tokenizer.
        private: layout of the private part.
        max_tokens: truncation length of one pair.
        half_head: as in ``PerformanceFlags``.
    """

    def __init__(
        self, decoder: FrozenDecoder, encoder: Encoder, private: Geometry, *, max_tokens: int, half_head: bool
    ) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._half_head = half_head
        self.geometry = geometry_beside(decoder, private)
        self._wide = torch.promote_types(decoder.dtype, torch.float32)

    def train(self, card: StyleCard, progress: Callable[[int, int], None]) -> tuple[Factors, PublicPartFacts]:
        """Return the factors ``A (r, d_in)`` and ``B (d_out, r)`` of each layer, and what is known of them.

        Args:
            card: a released card that is ``worth_making``.
            progress: gets steps done and steps in all.
        """
        rng = random.Random(card.digest())  # noqa: S311  # public text, no secret
        made = synthetic_pairs(card, count=PAIRS, seed=_TRAIN_SEED)
        rehearsed = [user.examples[0] for user in rng.sample(protected_users(), REHEARSED)]
        texts = [*(Example(prompt=pair.prompt, completion=pair.answer) for pair in made), *rehearsed]
        held_out = self._encoded(
            [
                Example(prompt=pair.prompt, completion=pair.answer)
                for pair in synthetic_pairs(card, count=HELD_OUT, seed=_HELD_OUT_SEED)
            ]
        )
        batches = self._batches(self._encoded(texts), rng)
        parameter = torch.nn.Parameter(self._initial(card.digest()))
        before = self._loss(parameter.detach(), held_out)
        best, kept, at = before, parameter.detach().clone(), 0
        optimizer = torch.optim.AdamW([parameter], lr=RATE, weight_decay=_WEIGHT_DECAY)
        checks = {round(len(batches) * part / 8) for part in range(round(8 * _CHECKED_FROM), 9)}
        for step, batch in enumerate(batches, start=1):
            for group in optimizer.param_groups:
                group["lr"] = RATE * _shape((step - 0.5) / len(batches))
            parameter.grad = self._gradient(parameter.detach(), batch)
            optimizer.step()
            progress(step, len(batches))
            if step in checks:
                loss = self._loss(parameter.detach(), held_out)
                if loss < best:
                    best, kept, at = loss, parameter.detach().clone(), step
        facts = PublicPartFacts(
            pairs=PAIRS,
            rehearsed=REHEARSED,
            steps=at,
            loss_before=round(before, 4),
            loss_after=round(best, 4),
        )
        return self.geometry.factors(kept.double(), _none(self.geometry)), facts

    def _initial(self, name: str) -> torch.Tensor:
        """Return the start: ``A`` random (Kaiming, as peft draws it), ``B`` zero."""
        coins = torch.Generator().manual_seed(
            int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        )
        vector = torch.zeros(self.geometry.size, dtype=self._wide)
        for slot in self.geometry.slots:
            assert slot.down is not None  # the family trains both factors
            bound = 1 / math.sqrt(slot.d_in)
            size = slot.down.stop - slot.down.start
            vector[slot.down] = (torch.rand(size, generator=coins, dtype=self._wide) * 2 - 1) * bound
        return vector.to(self._decoder.device)

    def _encoded(self, examples: Sequence[Example]) -> list[TokenExample]:
        return [
            token_example
            for example in examples
            for token_example in self._encoder.user(
                UserExamples(examples=(example,)),
                bound=1,
                objective=Objective.SFT,
                max_tokens=self._max_tokens,
            ).examples
        ]

    def _batches(self, examples: list[TokenExample], rng: random.Random) -> list[TokenUser]:
        rng.shuffle(examples)
        return [TokenUser(tuple(examples[at : at + BATCH])) for at in range(0, len(examples), BATCH)]

    def _gradient(self, vector: torch.Tensor, batch: TokenUser) -> torch.Tensor:
        micro = assemble([Member(0, batch, ())], self._decoder.device, self._wide)
        rows = torch.empty((1, self.geometry.size), device=vector.device, dtype=vector.dtype)
        binding = Binding(self.geometry, {}, vector[None].requires_grad_(), rows)
        hidden = self._decoder.embed(micro.tokens)
        every = range(self._decoder.layer_count)
        out = self._decoder.run(hidden, micro.batch, every, binding, labels_only=True)
        nll = self._decoder.head.label_nll(out, micro.batch.targets, half=self._half_head)
        torch.autograd.backward(micro.terms.total(nll, None))
        binding.check_complete()
        return rows[0]

    @torch.no_grad()
    def _loss(self, vector: torch.Tensor, examples: list[TokenExample]) -> float:
        losses = []
        for at in range(0, len(examples), BATCH):
            batch = Member(0, TokenUser(tuple(examples[at : at + BATCH])), ())
            micro = assemble([batch], self._decoder.device, self._wide)
            binding = Binding(self.geometry, {}, vector[None], None)
            every = range(self._decoder.layer_count)
            out = self._decoder.run(
                self._decoder.embed(micro.tokens), micro.batch, every, binding, labels_only=True
            )
            losses.append(
                float(micro.terms.total(self._decoder.head.label_nll(out, micro.batch.targets), None))
            )
        return sum(losses) / len(losses)


def _shape(part: float) -> float:
    """Return the share of the rate at a part of the way: up at first, then down to zero in a half cosine."""
    if part < WARM_UP:
        return part / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (part - WARM_UP) / (1 - WARM_UP)))


def _none(geometry: Geometry) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """Return factors that a family which trains both does not use."""
    empty = torch.empty(0)
    return {slot.key: (empty, empty) for slot in geometry.slots}
