"""Rules for answers over facts that change: right now, out of date, said though removed, and in the house's form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streams.demo.recipes.values import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.demo.recipes.people import Question

_PIER = re.compile(r"\b[A-H]\d{2}\b")


def piers_in(answer: str) -> set[str]:
    """Return the piers that an answer names."""
    return set(_PIER.findall(answer))


def says(piers: Mapping[str, str]) -> Rule:
    """Return the rule that an answer names its isle's pier and no other.

    Args:
        piers: the right pier by isle.
    """

    def holds(answer: str, asked: Question) -> bool:
        return piers_in(answer) == {piers[asked.facts["isle"]]}

    return Rule(name="the pier that is right now", holds=holds)


def not_out_of_date(old: Mapping[str, str]) -> Rule:
    """Return the rule that an answer does not name the pier of before.

    Args:
        old: the pier that is right no more, by isle.
    """

    def holds(answer: str, asked: Question) -> bool:
        return old.get(asked.facts["isle"], "") not in piers_in(answer)

    return Rule(name="nothing out of date or removed is said", holds=holds, kept=True)


def house_form(answer: str, _: Question) -> bool:
    """Say whether an answer opens and closes as the desk's people do."""
    text = " ".join(answer.split()).rstrip(".")
    return text.startswith("Ahoy! ") and text.endswith("Fair winds, your quay desk")


FORM = Rule(name="in the house's form", holds=house_form)
