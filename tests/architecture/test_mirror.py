"""Tests lie as the code lies: tests/<kind>/<package>/<folder>/; nothing is left in the checkout by a run."""

from __future__ import annotations

import ast

from tests.architecture.rooms import ROOT

KINDS = ("unit", "property", "contract", "integration", "privacy_claims", "e2e")
# What belongs to no folder: tests of the whole, of the benchmarks, and of the mutants.
WHOLE = {"e2e/test_readme_examples.py", "unit/benchmarks", "unit/mutation"}


def test_every_test_lies_in_the_folder_of_what_it_tests():
    wrong = []
    for kind in KINDS:
        for path in sorted((ROOT / "tests" / kind).rglob("test_*.py")):
            name = path.relative_to(ROOT / "tests").as_posix()
            inside = path.parent.relative_to(ROOT / "tests" / kind)
            if name in WHOLE or f"{kind}/{inside}" in WHOLE:
                continue
            if not inside.parts or not (ROOT / inside).is_dir():
                wrong.append(name)
    assert wrong == []


def test_migrations_import_nothing_of_ours():
    ours = {"streams", "personalization", "privacy"}
    wrong = [
        f"{path.name}: {node.module}"
        for path in sorted((ROOT / "migrations" / "versions").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".", maxsplit=1)[0] in ours
    ]
    assert wrong == []
