"""The public part of an adapter: a plain LoRA trained on text that was made of a style card.

It is free, as post-processing; what scales it later is charged (``styles.scales``).

It sits on every linear layer that the private part leaves alone, so the two add up exactly in one adapter. Public
questions and instructions with plain answers, and refusals, are rehearsed among the synthetic pairs: the model learns
the style of the tenant's prompts and keeps its own manner elsewhere. What stands between a tenant's frames is made up,
and nobody writes just that: there the part learns mostly what the base itself would say at that place, given the
beginning, but for words of the prompt, which it learns to say again.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Final

import torch

from personalization.styles.frames import is_poor
from personalization.styles.noted import noted_pairs
from personalization.styles.synthesis import SyntheticPair, synthetic_pairs
from personalization.training.engine.plain_lora import (
    WEIGHT_DECAY,
    PlainLora,
    every_linear,
    initial,
    share_of_rate,
    without_frozen,
)
from personalization.training.jobs.job import Example, PublicPartFacts
from personalization.training.public.texts import instruction_users, protected_users, refusal_users

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.styles.card import StyleCard
    from personalization.training.engine.decoder import FrozenDecoder
    from personalization.training.engine.encoding import Encoder, TokenExample
    from personalization.training.engine.families import Factors, Geometry

PAIRS: Final = 72  # synthetic pairs of one epoch
HELD_OUT: Final = 16  # synthetic pairs of another seed, to stop on
REHEARSED: Final = 16  # public questions among them
INSTRUCTED: Final = 16  # public instructions beside those
REFUSED: Final = 8  # harmful requests that are refused
NOTED: Final = 48  # made-up questions with notes, where a tenant answers from documents
HELD_OUT_NOTED: Final = 8  # of another seed, to stop on
NOTED_TOKENS: Final = 224  # of one of those: a question behind notes that were cut would be lost
BATCH: Final = 4
RATE: Final = 2e-3
COPIED_COUNTS: Final = 1.0  # of a word of the prompt that made-up content says again
CONTENT_COUNTS: Final = 0.2  # of a token inside made-up content; the rest is what the base says there
DRAWS: Final = 4  # of the base's tokens at each of those
CHECKED_AT: Final = (0.5, 0.75, 1.0)  # of the steps: the best of these is kept
_TRAIN_SEED, _HELD_OUT_SEED = 1, 2
_WORD: Final = re.compile(r"[^\W\d_]{4,}")  # shorter ones are mostly such as stand in any sentence


def worth_making(card: StyleCard) -> bool:
    """Say whether a card tells enough to make a public part of."""
    return not is_poor(card)


class PublicPart:
    """Trains a public part on a base that is loaded.

    Args:
        decoder: the plain base.
        encoder: its tokenizer.
        private: layout of the private part; the public one sits on every other linear layer, with its rank and alpha.
        max_tokens: truncation length of one pair.
        half: whether to multiply in bfloat16 where the processor has instructions for it.
    """

    def __init__(
        self, decoder: FrozenDecoder, encoder: Encoder, private: Geometry, *, max_tokens: int, half: bool
    ) -> None:
        self._lora = PlainLora(decoder, encoder, half=half)
        self._device = decoder.device
        self._max_tokens = max_tokens
        taken = {slot.key for slot in private.slots}
        self.geometry = every_linear(decoder, rank=private.rank, alpha=private.alpha, but=taken)

    def train(
        self, card: StyleCard, progress: Callable[[int, int], None], *, notes: bool = False
    ) -> tuple[Factors, PublicPartFacts]:
        """Return the factors ``A (r, d_in)`` and ``B (d_out, r)`` of each layer, and what is known of them.

        Args:
            card: a released card that is ``worth_making``.
            progress: gets steps done and steps in all.
            notes: rehearse made-up questions with notes too; 12 steps more.
        """
        rng = random.Random(card.digest())  # noqa: S311  # public text, no secret
        rehearsed = [
            user.examples[0]
            for users, count in (
                (protected_users(), REHEARSED),
                (instruction_users(), INSTRUCTED),
                (refusal_users(), REFUSED),
            )
            for user in rng.sample(users, count)
        ]
        plain = [SyntheticPair(prompt=one.prompt, answer=one.completion) for one in rehearsed]
        noted = NOTED if notes else 0
        texts = self._encoded([*synthetic_pairs(card, count=PAIRS, seed=_TRAIN_SEED), *plain])
        texts += self._encoded(noted_pairs(card, count=noted, seed=_TRAIN_SEED), NOTED_TOKENS)
        rng.shuffle(texts)
        coins = torch.Generator().manual_seed(rng.getrandbits(48))
        batches = self._lora.anchored(texts, DRAWS, coins, size=BATCH)
        unseen = self._encoded(synthetic_pairs(card, count=HELD_OUT, seed=_HELD_OUT_SEED))
        more = noted_pairs(card, count=HELD_OUT_NOTED if notes else 0, seed=_HELD_OUT_SEED)
        unseen += self._encoded(more, NOTED_TOKENS)
        held_out = self._lora.anchored(unseen, DRAWS, coins, size=HELD_OUT + HELD_OUT_NOTED)
        parameter = torch.nn.Parameter(initial(self.geometry, rng.getrandbits(48)).to(self._device))
        before = self._lora.loss(parameter.detach(), self.geometry, held_out)
        best, kept, at = before, parameter.detach().clone(), 0
        optimizer = torch.optim.AdamW([parameter], lr=RATE, weight_decay=WEIGHT_DECAY)
        checks = {round(len(batches) * part) for part in CHECKED_AT}
        for step, batch in enumerate(batches, start=1):
            for group in optimizer.param_groups:
                group["lr"] = RATE * share_of_rate(step - 0.5, len(batches))
            parameter.grad = self._lora.gradient(parameter.detach(), self.geometry, batch)
            optimizer.step()
            progress(step, len(batches))
            if step in checks:
                loss = self._lora.loss(parameter.detach(), self.geometry, held_out)
                if loss < best:
                    best, kept, at = loss, parameter.detach().clone(), step
        facts = PublicPartFacts(
            pairs=PAIRS,
            rehearsed=len(rehearsed),
            steps=at,
            loss_before=round(before, 4),
            loss_after=round(best, 4),
            noted=noted,
        )
        return self.geometry.factors(kept.double(), without_frozen(self.geometry)), facts

    def _encoded(
        self, pairs: Sequence[SyntheticPair], least: int = 0
    ) -> list[tuple[TokenExample, list[float]]]:
        """Return pairs as rows, and how much each of their labels counts.

        Args:
            pairs: each is cut to the length of a pair, or to ``least`` if that is longer.
            least: tokens.
        """
        examples = [Example(prompt=one.prompt, completion=one.answer) for one in pairs]
        rows = self._lora.encoded(examples, max(self._max_tokens, least))
        return [
            (row, counts_of(pair, row.rows[0].labels, self._lora.tokens_of))
            for pair, row in zip(pairs, rows, strict=True)
        ]


def counts_of(pair: SyntheticPair, labels: int, tokens_of: Callable[[str], list[int]]) -> list[float]:
    """Return how much each label of a pair's answer counts: inside public content less than in the tenant's frame.

    The label that begins content counts in full: that a frame ends there, and how what follows is written, is style. So
    do words that content takes from the prompt: an answer that leaves them to the base says one thing to everybody.

    Args:
        pair: a made-up prompt and its answer.
        labels: how many there are, the end token and what was cut off included.
        tokens_of: the tokenizer's.
    """

    def label_at(at: int) -> int:
        # Without the space before it, which belongs to the first token of what follows.
        return len(tokens_of(pair.answer[:at].rstrip()))

    begins, ends = (label_at(at) for at in pair.content)
    counts = [CONTENT_COUNTS if begins < at < ends else 1.0 for at in range(labels)]
    for first, last in _copied(pair):
        for at in range(label_at(first), min(label_at(last), labels)):
            counts[at] = max(counts[at], COPIED_COUNTS)
    return counts


def _copied(pair: SyntheticPair) -> list[tuple[int, int]]:
    """Return where made-up content of an answer says words of its prompt, as (first character, one past the last)."""
    begins, ends = pair.content
    asked = {word.casefold() for word in _WORD.findall(pair.prompt)}
    return [
        (begins + found.start(), begins + found.end())
        for found in _WORD.finditer(pair.answer[begins:ends])
        if found.group().casefold() in asked
    ]
