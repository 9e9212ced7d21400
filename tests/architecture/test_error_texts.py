"""Errors grow from one base, with codes of their own and texts in one case; the edge makes sentences of them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re

import pytest

from privacy.errors import DiscreetError
from tests.architecture.rooms import ROOT

TREES = ("privacy.errors", "personalization.errors", "personalization.training.errors", "streams.errors")
LIGHT = ("streams.client.errors", "streams.contracts.errors")
# An ordinary word with a capital, but neither a name (Kafka, PostgreSQL, …) nor an acronym or identifier.
CAPITAL = re.compile(r"^[A-Z][a-z]+(?![A-Za-z_])")
NAMES = {"Kafka", "Python", "Opacus", "Alembic"}


def classes_of(module: str) -> list[type[Exception]]:
    found = importlib.import_module(module)
    return [
        one
        for _, one in inspect.getmembers(found, inspect.isclass)
        if issubclass(one, Exception) and one.__module__ == module
    ]


@pytest.mark.parametrize("module", TREES)
def test_every_error_has_the_one_base(module):
    assert all(issubclass(one, DiscreetError) for one in classes_of(module))


def test_every_error_has_a_code_of_its_own():
    codes = [one.code for module in (*TREES, *LIGHT) for one in classes_of(module)]
    assert len(codes) == len(set(codes)) > 40


def texts() -> list[tuple[str, str]]:
    """Return (place, first argument) of every raise of one of our errors whose text is written there."""
    names = {one.__name__ for module in (*TREES, *LIGHT) for one in classes_of(module)}
    found = []
    for package in ("streams", "personalization", "privacy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not (isinstance(node, ast.Call) and node.args):
                    continue
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name not in names:
                    continue
                text = written(node.args[0])
                if text:
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def written(node: ast.expr) -> str:
    """Return the text of a string or f-string, with … in the place of what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def test_texts_begin_in_lower_case_and_end_without_a_full_stop():
    all_texts = texts()
    assert len(all_texts) > 150
    wrong = [
        f"{place}: {text}"
        for place, text in all_texts
        if ((match := CAPITAL.match(text)) and match.group() not in NAMES) or text.rstrip().endswith(".")
    ]
    assert wrong == []
