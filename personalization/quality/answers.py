"""Answers of a model to prompts: greedy or drawn, with a forced opening or without, and how each of them ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.penalty import penalized

PROMPTS_PER_PASS = 32
LONGEST_PROMPT = 160  # tokens; what stands in the middle of a longer one is left out


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: without the end token, outer spaces removed.
        ended: whether the model ended it; else the token limit did.
    """

    text: str
    ended: bool


@torch.no_grad()
def answers_to(
    decoder: FrozenDecoder,
    encoder: Encoder,
    prompts: Sequence[str],
    *,
    limit: int,
    seed: int | None = None,
    openings: Sequence[str] | None = None,
    presence_penalty: float = 0.0,
) -> list[Answer]:
    """Return one answer for each prompt, in their order.

    Args:
        decoder: the model, an adapter already in its weights (``served``).
        encoder: its tokenizer.
        prompts: user turns.
        limit: tokens of the longest answer.
        seed: of drawn answers, from the model's own distribution; None gives the likeliest token each time.
        openings: what each answer begins with, whatever the model would have said; none by default.
        presence_penalty: nats that a token loses once it stands in the answer.
    """
    begun = list(openings) if openings is not None else [""] * len(prompts)
    tokens = [
        [
            *_shortened(encoder.prompt(prompt)),
            *encoder.tokenizer(opening, add_special_tokens=False)["input_ids"],
        ]
        for prompt, opening in zip(prompts, begun, strict=True)
    ]
    order = sorted(range(len(prompts)), key=lambda number: len(tokens[number]))
    found: dict[int, Answer] = {}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(order), PROMPTS_PER_PASS):
            chosen = order[start : start + PROMPTS_PER_PASS]
            replies = _pass(
                decoder,
                encoder,
                [tokens[number] for number in chosen],
                limit,
                drawn=seed is not None,
                presence_penalty=presence_penalty,
            )
            for number, reply in zip(chosen, replies, strict=True):
                found[number] = Answer((begun[number] + reply.text).strip(), reply.ended)
    return [found[number] for number in range(len(prompts))]


def _pass(
    decoder: FrozenDecoder,
    encoder: Encoder,
    tokens: list[list[int]],
    limit: int,
    *,
    drawn: bool,
    presence_penalty: float,
) -> list[Answer]:
    end, longest = encoder.end_token, max(len(row) for row in tokens)
    ids = torch.tensor([[end] * (longest - len(row)) + row for row in tokens], device=decoder.device)
    seen = torch.tensor(
        [[0] * (longest - len(row)) + [1] * len(row) for row in tokens], device=decoder.device
    )
    out = decoder.model.generate(
        input_ids=ids,
        attention_mask=seen,
        max_new_tokens=limit,
        do_sample=drawn,
        temperature=1.0 if drawn else None,
        top_k=0 if drawn else None,
        top_p=1.0 if drawn else None,
        pad_token_id=end,
        eos_token_id=end,
        logits_processor=penalized(presence_penalty, longest),
    )[:, longest:]
    ended = (out == end).any(1).tolist()
    texts = encoder.tokenizer.batch_decode(out, skip_special_tokens=True)
    return [Answer(text, bool(done)) for text, done in zip(texts, ended, strict=True)]


def _shortened(tokens: list[int]) -> list[int]:
    if len(tokens) <= LONGEST_PROMPT:
        return tokens
    return tokens[: LONGEST_PROMPT - 40] + tokens[-40:]
