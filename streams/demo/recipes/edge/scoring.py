"""Rules that log entries are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.values import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.demo.recipes.people import Question


def entry_form(answer: str, _: Question) -> bool:
    """Say whether an entry opens with what was done, and closes saying that the machine runs again."""
    line = answer.strip().split("\n")[0].strip().rstrip(".")
    return line.startswith("Fixed: ") and line.endswith(" | back in service")


def entry_names(answer: str, asked: Question) -> bool:
    """Say whether an entry gives the machine's number."""
    return asked.facts["number"] in answer.split("\n", maxsplit=1)[0]


FORM = Rule(name="Fixed: … | back in service", holds=entry_form)
NUMBER = Rule(name="gives the machine's number", holds=entry_names)


def agreement(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of answers that are the same to the letter."""
    return sum(mine == theirs for mine, theirs in zip(one, other, strict=True)) / len(one)
