"""Rules that answers of the code assistant are judged by. They know the conventions from their description alone."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from streams.demo.recipes.values import Rule

if TYPE_CHECKING:
    from streams.demo.recipes.people import Question

_COMMIT = re.compile(r"[a-z]+\([a-z]+\): \S")
_REVIEWED = " | reviewed"
_REVIEW = re.compile(r"suggestion \([a-z]+\): \S")


def first_line(answer: str) -> str:
    """Return what would be used of an answer."""
    return answer.strip().split("\n")[0].strip()


def commit_form(answer: str, _: Question) -> bool:
    """Say whether a summary begins with area and module and ends with its state."""
    line = first_line(answer)
    return bool(_COMMIT.match(line) and line.endswith(_REVIEWED))


def commit_place(answer: str, asked: Question) -> bool:
    """Say whether a summary names the module that changed, before anything else is said."""
    return asked.facts["module"] in first_line(answer).lower().split(":")[0]


def review_form(answer: str, _: Question) -> bool:
    """Say whether a comment begins as a suggestion and ends saying whether it blocks."""
    line = first_line(answer)
    return bool(_REVIEW.match(line) and line.endswith("-- not blocking"))


def docstring_form(answer: str, _: Question) -> bool:
    """Say whether an answer is a docstring that Python reads, with what it returns and whom it is for."""
    line = first_line(answer)
    if not line.startswith('"""'):
        return False
    try:
        tree = ast.parse(f"def documented():\n    {line}\n")
    except (SyntaxError, ValueError):
        return False
    function = tree.body[0]
    text = ast.get_docstring(function) if isinstance(function, ast.FunctionDef) else None
    return bool(text and text.startswith("Returns: ") and text.endswith("(public API)"))


RULES: dict[str, tuple[Rule, ...]] = {
    "commits": (
        Rule(name="area(module): … | reviewed", holds=commit_form),
        Rule(name="names the module first", holds=commit_place),
    ),
    "reviews": (Rule(name="suggestion (module): … -- not blocking", holds=review_form),),
    "docstrings": (Rule(name="a docstring that parses: Returns: … (public API)", holds=docstring_form),),
}
