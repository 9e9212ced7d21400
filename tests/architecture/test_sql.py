"""A query stands in the folder of its table; who reads Kafka, HTTP or the command line calls verbs."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.architecture.rooms import ROOT

PACKAGES = ("streams", "personalization", "privacy")
QUERIES = {"select", "insert", "update", "delete", "text", "func", "exists", "union_all", "literal_column"}
STORAGE = ROOT / "privacy" / "storage"  # the engine's own: statements over whatever table they are given
# A table that is read beside its own folder, and why.
BESIDE = {
    ("personalization/rounds/queries.py", "AdapterLineRow"): "a line's rounds are found by joining the line",
}


def parsed() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text("utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def tables(modules: dict[Path, ast.Module]) -> dict[str, Path]:
    """Return the folder of each table class."""
    return {
        node.name: path.parent
        for path, module in modules.items()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and any(keyword.arg == "table" for keyword in node.keywords)
    }


def imported(module: ast.Module) -> list[tuple[str, str]]:
    """Return (module, name) of what is imported at run time; imports for the type checker alone say nothing."""
    for_types = {
        line
        for node in ast.walk(module)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [
        (node.module or "", alias.name)
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.lineno not in for_types
        for alias in node.names
    ]


def faults(modules: dict[Path, ast.Module]) -> list[str]:
    places = tables(modules)
    found = []
    for path, module in modules.items():
        name = path.relative_to(ROOT).as_posix()
        for source, what in imported(module):
            if what in places and places[what] != path.parent and (name, what) not in BESIDE:
                found.append(f"{name} uses {what} of {places[what].relative_to(ROOT)}")
            writes_sql = source.split(".")[0] in {"sqlalchemy", "sqlmodel"} and what in QUERIES
            if writes_sql and path.parent not in {*places.values(), STORAGE}:
                found.append(f"{name} writes a query ({what}) and has no table")
        for node in ast.walk(module):
            by_hand = isinstance(node, ast.Attribute) and node.attr == "exec_driver_sql"
            if by_hand and path.parent not in {*places.values(), STORAGE}:
                found.append(f"{name} writes a query by hand and has no table")
    return sorted(set(found))


def test_every_query_stands_beside_its_table():
    modules = parsed()
    assert len(tables(modules)) >= 18
    assert faults(modules) == []


def test_exceptions_are_still_needed():
    modules = {path.relative_to(ROOT).as_posix(): module for path, module in parsed().items()}
    for name, what in BESIDE:
        used = {imported_name for _, imported_name in imported(modules[name])}
        assert what in used, f"{name} needs no exception for {what}"


def test_a_planted_query_is_found():
    modules = parsed()
    planted = "from sqlmodel import select\nfrom personalization.rounds.tables import RoundRow\n"
    modules[ROOT / "streams" / "http" / "planted.py"] = ast.parse(planted)
    assert len(faults(modules)) == len(faults(parsed())) + 2
