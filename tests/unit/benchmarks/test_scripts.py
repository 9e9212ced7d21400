"""Every benchmark runs as its documentation says: ``python tests/benchmarks/NAME.py``, in no environment of its own.

The folder of a script comes first where Python looks for packages, and ``privacy.py`` there is no package.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
OURS = {"personalization", "privacy", "streams", "tests"}
SCRIPTS = [
    path for path in sorted(FOLDER.glob("*.py")) if '__name__ == "__main__"' in path.read_text("utf-8")
]


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    if isinstance(node, ast.Import):
        return {one.name.partition(".")[0] for one in node.names}
    return set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_our_packages_before_its_own_folder(path):
    body = ast.parse(path.read_text("utf-8")).body
    ours = next((at for at, node in enumerate(body) if names_of(node) & OURS), len(body))
    put_first = next(
        at for at, node in enumerate(body) if ast.unparse(node).startswith("sys.path.insert(0, ")
    )
    assert put_first < ours


def test_there_are_scripts():
    assert {"chaos", "privacy", "quality"} <= {path.stem for path in SCRIPTS}
