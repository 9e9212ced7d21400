"""Rules for research answers: the right number, the right source, no wrong one, and the audience's form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streams.demo.recipes.values import Rule

if TYPE_CHECKING:
    from streams.demo.recipes.people import Question

_SOURCE = re.compile(r"\b[A-Z][a-z]+ 20\d\d\b")


def right_value(answer: str, asked: Question) -> bool:
    """Say whether the value is said, digit by digit."""
    return asked.facts["value"] in re.findall(r"\d+", answer.replace(",", ""))


def right_source(answer: str, asked: Question) -> bool:
    """Say whether the study is named as it is cited."""
    return asked.facts["source"] in answer


def no_wrong_source(answer: str, asked: Question) -> bool:
    """Say whether no other study is named."""
    return not set(_SOURCE.findall(answer)) - {asked.facts["source"]}


def for_experts(answer: str, _: Question) -> bool:
    """Say whether an answer has the experts' form at its opening, with a source in brackets behind."""
    text = " ".join(answer.split())
    return text.startswith("Finding: ") and "(source:" in text


def for_executives(answer: str, _: Question) -> bool:
    """Say whether an answer has the executives' form at both ends, and no brackets."""
    text = " ".join(answer.split()).rstrip(".")
    return text.startswith("In short, ") and text.endswith("the research desk") and "(" not in text


VALUE = Rule(name="the right number", holds=right_value)
SOURCE = Rule(name="the right source is named", holds=right_source)
NO_OTHER = Rule(name="no wrong source", holds=no_wrong_source, kept=True)
FORMS = {
    "expert": Rule(name="the experts' form", holds=for_experts),
    "executive": Rule(name="the executives' form", holds=for_executives),
}


def rules_of(line: str) -> tuple[Rule, ...]:
    """Return what an audience's answers are judged by."""
    return (FORMS[line], VALUE, *((SOURCE,) if line == "expert" else ()), NO_OTHER)


def words_per_answer(answers: list[str]) -> float:
    """Return the mean number of words."""
    return sum(len(text.split()) for text in answers) / max(1, len(answers))
