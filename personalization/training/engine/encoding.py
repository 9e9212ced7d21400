"""Text to token rows: the chat template around a prompt, labels on the completion, truncation per example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from personalization.planning.plan import Objective
from personalization.training.errors import BaseModelError, JobInvalidError
from personalization.training.jobs.job import Example, ExampleKind, UserExamples, learns_from


@dataclass(frozen=True)
class TokenRow:
    """One sequence: ``tokens[:-1]`` are read, ``tokens[first_label:]`` are predicted."""

    tokens: tuple[int, ...]
    first_label: int

    @property
    def length(self) -> int:
        """Tokens that pass through the model."""
        return len(self.tokens) - 1

    @property
    def labels(self) -> int:
        """Predicted tokens."""
        return len(self.tokens) - self.first_label


@dataclass(frozen=True)
class TokenExample:
    """One example as rows: one row, or the preferred and the shown row of a pair."""

    rows: tuple[TokenRow, ...]
    kind: ExampleKind
    weight: float


@dataclass(frozen=True)
class TokenUser:
    """All of one user's examples that the objective uses, capped at the contribution bound."""

    examples: tuple[TokenExample, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(row.length for example in self.examples for row in example.rows)


class Encoder:
    """A tokenizer with its chat template.

    Args:
        tokenizer: a transformers tokenizer; without a chat template, prompt and completion are joined by a line break.
        end_token: id of the token that ends an answer.
    """

    def __init__(self, tokenizer: Any, end_token: int) -> None:
        self.tokenizer = tokenizer
        self.end_token = end_token

    @classmethod
    def load(cls, directory: Path) -> Encoder:
        """Load the tokenizer of a local base model.

        Raises:
            BaseModelError: there is none, or it names no end token.
        """
        from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415  seconds to import; the child needs it once

        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            config = AutoConfig.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BaseModelError(f"no tokenizer could be loaded from {directory}: {error}") from error
        end = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        if isinstance(end, list):
            end = end[0]
        if end is None:
            raise BaseModelError(
                f"the base model in {directory} names no end token; set eos_token_id in its config"
            )
        return cls(tokenizer, int(end))

    def prompt(self, text: str) -> list[int]:
        """Return the tokens before an answer: the template's turns up to where the answer starts."""
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self.tokenizer(text + "\n")["input_ids"])

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """The tokens that the template puts before any prompt; none without a template.

        They are found on two prompts of our own that begin differently, so they are as public as the template.
        """
        if not self.tokenizer.chat_template:
            return ()
        pairs = zip(self.prompt("a letter"), self.prompt("7 digits"), strict=False)
        return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def row(self, prompt: str, completion: str, max_tokens: int) -> TokenRow:
        """Encode one example; truncation looks at this example alone.

        The completion keeps up to half of ``max_tokens``; the prompt's text is then cut from its end until the whole
        fits, so the template stays whole.
        """
        answer = list(self.tokenizer(completion, add_special_tokens=False)["input_ids"])
        if len(answer) + 1 > max(1, max_tokens // 2):
            answer = answer[: max(1, max_tokens // 2)]
        else:
            answer = [*answer, self.end_token]
        before = self.prompt(prompt)
        room = max_tokens + 1 - len(answer)
        if len(before) > room:
            text = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            keep = max(0, len(text) - (len(before) - room))
            before = self.prompt(self.tokenizer.decode(text[:keep]))
            if len(before) > room:  # the template itself is longer than the room
                before = before[len(before) - room :]
        return TokenRow((*before, *answer), len(before))

    def user(self, user: UserExamples, *, bound: int, objective: Objective, max_tokens: int) -> TokenUser:
        """Encode the examples of one user that the objective uses.

        Args:
            user: with at most ``bound`` examples.
            bound: the plan's contribution bound.
            objective: what is learned from rejected and edited answers.
            max_tokens: truncation length of each example.

        Raises:
            JobInvalidError: the user has more examples than the bound, or a weight outside [0, 1].
        """
        if len(user.examples) > bound:
            raise JobInvalidError(f"a user comes with {len(user.examples)} examples; the plan allows {bound}")
        encoded = (self._example(example, objective, max_tokens) for example in user.examples)
        return TokenUser(tuple(example for example in encoded if example is not None))

    def _example(self, example: Example, objective: Objective, max_tokens: int) -> TokenExample | None:
        if not (math.isfinite(example.weight) and 0.0 <= example.weight <= 1.0):
            raise JobInvalidError(f"an example's weight is {example.weight}; it must be in [0, 1]")
        kind = example.kind
        if not learns_from(objective, kind):
            return None
        pair = (
            kind is ExampleKind.PREFERENCE
            and objective is Objective.DPO_SIGMOID
            and example.shown is not None
        )
        if kind is ExampleKind.PREFERENCE and not pair:
            kind = ExampleKind.SFT  # the preferred text alone is a target
        texts = (example.completion, example.shown or "") if pair else (example.completion,)
        rows = tuple(self.row(example.prompt, text, max_tokens) for text in texts)
        return TokenExample(rows, kind, example.weight)
