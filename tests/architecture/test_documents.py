"""What the documents name exists: files, folders, functions, and the pages that links lead to."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HISTORY = {ROOT / "CHANGELOG.md"}  # it names what was
PAGES = [
    path
    for pattern in ("*.md", "privacy/**/*.md", "personalization/**/*.md", "streams/**/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path not in HISTORY
]
FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|json|jsonl|toml|yaml))(?::(\w+))?`")
FOLDER = re.compile(r"`((?:[\w.-]+/)+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
MADE_BY_THE_READER = {"guide.json", "ledger.jsonl", "feed.json", "report.json"}


def _found(page: Path, name: str) -> Path | None:
    return next((place for folder in (ROOT, page.parent) if (place := folder / name).exists()), None)


def _names(path: Path) -> set[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_folders_and_functions_exist(page):
    text = page.read_text("utf-8")
    missing = [name for name in FOLDER.findall(text) + LINK.findall(text) if _found(page, name) is None]
    for name, function in FILE.findall(text):
        path = _found(page, name)
        if path is None:
            missing.extend([name] if name not in MADE_BY_THE_READER else [])
        elif function and function not in _names(path):
            missing.append(f"{name}:{function}")
    assert missing == []


def test_the_walk_names_files_of_every_package():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = {name for name, _ in FILE.findall(text)}
    for package in ("streams/client/", "streams/ingest/", "personalization/training/", "privacy/ledger/"):
        assert any(name.startswith(package) for name in named), package


def test_decisions_stand_in_their_order_and_those_that_are_named_exist():
    text = (ROOT / "DECISIONS.md").read_text("utf-8")
    numbers = [int(one) for one in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert numbers == sorted(set(numbers))
    named = {
        int(one)
        for page in (*PAGES, *HISTORY, ROOT / "tests/benchmarks/RESULTS.md")
        for one in re.findall(r"\bdecision (\d+)\b", page.read_text("utf-8"))
    }
    assert named <= set(numbers)


@pytest.mark.parametrize("page", ["CHANGELOG.md", "DECISIONS.md", "tests/benchmarks/RESULTS.md"])
def test_no_merge_left_a_line_twice_or_a_heading_without_an_empty_line_before_it(page):
    """These files are merged line by line, and what both sides wrote is kept."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    begins = [line[:60] for line in lines if line.startswith("- ") and len(line) >= 60]
    assert [one for one in begins if begins.count(one) > 1] == []
    for before, line in pairwise(lines):
        marked = before.startswith("<!-- ") and line.startswith("## ")
        assert not re.match(r"## |<!-- \w+:begin", line) or before == "" or marked, line
