"""Rules for research answers: the right number, its source beside it, no made-up one, and the audience's form.

Sources are not asked of the model: the gateway names the passages that an answer was made with. So a number counts as
sourced where it is right and what was sent with the question is its study alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streams.demo.recipes.values import Rule, both

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.demo.recipes.people import Question

_SOURCE = re.compile(r"\b[A-Z][a-z]+ 20\d\d\b")


def right_value(answer: str, asked: Question) -> bool:
    """Say whether the value is said, digit by digit."""
    return asked.facts["value"] in re.findall(r"\d+", answer.replace(",", ""))


def sourced(answer: str, asked: Question, cited: Sequence[str]) -> bool:
    """Say whether the value is said and what is named beside the answer is its study alone.

    Args:
        answer: the model's text.
        asked: the question.
        cited: titles of the passages that were sent with it; none without memory.
    """
    return right_value(answer, asked) and list(cited) == [asked.facts["source"]]


def no_wrong_source(answer: str, asked: Question) -> bool:
    """Say whether no other study is named."""
    return not set(_SOURCE.findall(answer)) - {asked.facts["source"]}


def for_experts(answer: str, _: Question) -> bool:
    """Say whether an answer has the experts' form at both ends."""
    text = " ".join(answer.split()).rstrip(".")
    return text.startswith("Finding: ") and text.endswith("; methods as in the study")


def for_executives(answer: str, _: Question) -> bool:
    """Say whether an answer has the executives' form at both ends, and no brackets."""
    text = " ".join(answer.split()).rstrip(".")
    return text.startswith("In short, ") and text.endswith("the research desk") and "(" not in text


VALUE = Rule(name="the right number", holds=right_value)
SOURCED = "the right number with its source beside it"
NO_OTHER = Rule(name="no other study is named", holds=no_wrong_source, kept=True)
FORMS = {
    "expert": Rule(name="the experts' form", holds=for_experts),
    "executive": Rule(name="the executives' form", holds=for_executives),
}


def rules_of(line: str) -> tuple[Rule, ...]:
    """Return what an audience's answers are judged by."""
    return (FORMS[line], VALUE, both(VALUE, FORMS[line]), NO_OTHER)


def words_per_answer(answers: list[str]) -> float:
    """Return the mean number of words."""
    return sum(len(text.split()) for text in answers) / max(1, len(answers))
