"""Favour names while an answer is made: piece after piece of one that was begun, its first piece until it was said.

What an API's ``logit_bias`` can say, the same numbers at every step, makes other words of the first pieces (see
tests/benchmarks/RESULTS.md, terms). So this wants the tokens that were said, and a prompt that tells of the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class FavouredNames(LogitsProcessor):  # type: ignore[misc]  # transformers gives the class no type
    """Adds ``bias`` nats to the tokens by which a name goes on, or begins while it was not said yet.

    Args:
        spellings: tokens of each name, in each form in which it may stand.
        bias: in nats.
        prompt_length: tokens of the padded prompts, before which nothing counts.
    """

    def __init__(self, spellings: Sequence[Sequence[int]], bias: float, prompt_length: int) -> None:
        self._spellings = [list(pieces) for pieces in spellings if pieces]
        self._bias = bias
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the scores, ``(answers, vocabulary)``, of the next token."""
        more = torch.zeros_like(scores)
        for row, said in enumerate(input_ids[:, self._prompt_length :].tolist()):
            for token in self._favoured(said):
                more[row, token] = self._bias
        return scores + more  # type: ignore[return-value]  # torch types the sum as a plain tensor

    def _favoured(self, said: list[int]) -> Iterator[int]:
        for pieces in self._spellings:
            begun = next((n for n in range(len(pieces), 0, -1) if said[-n:] == pieces[:n]), 0)
            if 0 < begun < len(pieces):
                yield pieces[begun]
            elif not any(said[at : at + len(pieces)] == pieces for at in range(len(said))):
                yield pieces[0]


def favoured(tokenizer: Any, names: Sequence[str], bias: float, prompt_length: int) -> LogitsProcessorList:
    """Return what ``generate`` takes for names, within a sentence and at its beginning; nothing for none."""
    spellings = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for name in names
        for text in (f" {name}", name)
    ]
    return LogitsProcessorList([FavouredNames(spellings, bias, prompt_length)] if names else [])
