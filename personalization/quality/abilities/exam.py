"""What a base can do that no style moves: right or wrong answers to short questions, and instructions kept or not.

The questions and instructions lie beside this module, written for this project. A choice is scored by the likelihood
of each of its answers, all of one form, so an adapter that likes shorter or otherwise worded answers moves them
together; instructions are judged by rules that look for what was asked, wherever it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import torch

from personalization.quality.answers import Answer, answers_to
from personalization.quality.likelihood import TOKENS_PER_PASS
from personalization.training.engine.batches import Member, assemble, split_users
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenExample, TokenUser
from personalization.training.jobs.job import ExampleKind

LIMIT = 40  # tokens of an answer to an instruction
MAX_TOKENS = 128


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with one right answer and some wrong ones of the same form."""

    question: str
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A prompt and the rule its answer must keep; see ``kept``."""

    prompt: str
    rule: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """One model's results, item by item, so that two models can be compared in pairs.

    Attributes:
        right: whether each question's right answer is the likeliest.
        belief: the share of the probability of all its answers that the right one has.
        kept: whether each instruction was followed.
    """

    right: tuple[bool, ...]
    belief: tuple[float, ...]
    kept: tuple[bool, ...]


@lru_cache(maxsize=1)
def choices() -> tuple[Choice, ...]:
    """Return the questions."""
    rows = _rows("choices.jsonl")
    return tuple(
        Choice(question=row["question"], right=row["right"], wrong=tuple(row["wrong"])) for row in rows
    )


@lru_cache(maxsize=1)
def instructions() -> tuple[Instruction, ...]:
    """Return the instructions."""
    return tuple(Instruction(**row) for row in _rows("instructions.jsonl"))


def abilities(
    decoder: FrozenDecoder, encoder: Encoder, *, most: int | None = None, presence_penalty: float = 0.0
) -> Abilities:
    """Measure a model, an adapter already in its weights.

    Args:
        decoder: the model.
        encoder: its tokenizer.
        most: at most so many questions and so many instructions; all by default.
        presence_penalty: with which the replies to instructions are decoded.
    """
    asked = choices()[:most]
    scores = _scores(decoder, encoder, asked)
    told = instructions()[:most]
    replies = answers_to(
        decoder, encoder, [one.prompt for one in told], limit=LIMIT, presence_penalty=presence_penalty
    )
    return Abilities(
        right=tuple(bool(np.argmax(score) == 0) for score in scores),
        belief=tuple(float(np.exp(score[0] - np.logaddexp.reduce(score))) for score in scores),
        kept=tuple(kept(one, reply) for one, reply in zip(told, replies, strict=True)),
    )


def kept(instruction: Instruction, answer: Answer) -> bool:
    """Say whether an answer keeps the rule of an instruction.

    Raises:
        KeyError: the rule is none of ``RULES``.
    """
    return RULES[instruction.rule](instruction.value, answer.text.strip())


def _some(value: str, text: str) -> bool:
    count, wanted = value.split(" ", 1)
    return sum(part in text.lower() for part in wanted.split("|")) >= int(count)


def _times(value: str, text: str) -> bool:
    count, wanted = value.split(" ", 1)
    return text.lower().count(wanted) >= int(count)


RULES: dict[str, Callable[[str, str], bool]] = {
    "most_words": lambda value, text: 0 < len(text.split()) <= int(value),
    "least_lines": lambda value, text: sum(bool(line.strip()) for line in text.split("\n")) >= int(value),
    "opens": lambda value, text: re.match(rf"\W*({value})\b", text.lower()) is not None,
    "holds": lambda value, text: value in text.lower(),
    "holds_exactly": lambda value, text: value in text,
    "holds_all": lambda value, text: any(
        all(part in text.lower() for part in way.split("|")) for way in value.split(" or ")
    ),
    "holds_some": _some,
    "holds_times": _times,
    "word_opens": lambda value, text: any(
        word.startswith(value) for word in re.findall(r"\w+", text.lower())[-3:]
    ),
}


@torch.no_grad()
def _scores(decoder: FrozenDecoder, encoder: Encoder, asked: Sequence[Choice]) -> list[list[float]]:
    """Return the mean log-likelihood per token of each answer of each question, the right one first."""
    members, counts = [], []
    for one in asked:
        answers = (one.right, *one.wrong)
        counts.append(len(answers))
        for answer in answers:
            row = encoder.row(one.question, answer[:1].upper() + answer[1:] + ".", MAX_TOKENS)
            members.append(Member(0, TokenUser((TokenExample((row,), ExampleKind.SFT, 1.0),)), ()))
    found: list[float] = []
    for run in split_users(members, TOKENS_PER_PASS):
        micro = assemble(run, decoder.device, torch.promote_types(decoder.dtype, torch.float32))
        out = decoder.run(
            decoder.embed(micro.tokens), micro.batch, range(decoder.layer_count), labels_only=True
        )
        nll = decoder.head.label_nll(out, micro.batch.targets)
        owner = micro.batch.label_groups.users.of_token
        sums = nll.new_zeros(len(run)).index_add_(0, owner, micro.terms.sft * nll)
        found += (-sums).tolist()
    scores, at = [], 0
    for count in counts:
        scores.append(found[at : at + count])
        at += count
    return scores


def _rows(name: str) -> list[dict[str, Any]]:
    text = (resources.files(__package__) / name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]
