"""The penalty on tokens that an answer holds already, as engines apply it; what the prompt holds does not count."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor, LogitsProcessorList


class PresencePenalty(LogitsProcessor):  # type: ignore[misc]  # transformers gives the class no type
    """Takes ``penalty`` nats from every token that stands in the answer so far.

    Args:
        penalty: in nats, as OpenAI's ``presence_penalty``.
        prompt_length: tokens of the padded prompts, before which nothing counts.
    """

    def __init__(self, penalty: float, prompt_length: int) -> None:
        self._penalty = penalty
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the scores, ``(answers, vocabulary)``, of the next token."""
        said = input_ids[:, self._prompt_length :]
        there = torch.zeros_like(scores).scatter_(1, said, self._penalty)
        return scores - there  # type: ignore[return-value]  # torch types the difference as a plain tensor


def penalized(penalty: float, prompt_length: int) -> LogitsProcessorList | None:
    """Return what ``generate`` takes for a penalty; ``None`` for none."""
    return LogitsProcessorList([PresencePenalty(penalty, prompt_length)]) if penalty else None
