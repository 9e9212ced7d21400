"""The structure as tests: layers, sizes of modules, and words that must not be in the repository."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.architecture.rooms import arrows_of, circles_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("streams", "personalization", "privacy")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOFT_LIMIT = 400
SAYS_WHY = re.compile(r"[Ll]onger than \d+ lines,? (because|for|since)\b")


def _tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        return [path for path in MODULES if path.is_file()]
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def _linted(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_follow_the_layers():
    done = _linted(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "place",
    ["privacy/planted", "personalization/planted", "personalization/training/planted", "streams/planted"],
)
def test_a_folder_without_a_place_breaks_the_layers(place, tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / place).mkdir()
    (tmp_path / place / "__init__.py").write_text("")
    done = _linted(tmp_path)
    assert done.returncode != 0
    assert place.replace("/", ".") in done.stdout


def test_rooms_and_arrows_stay_within_the_plan():
    # Rooms, and arrows between them: what the house was planned with and the rooms of styles and anchors; no circles.
    most = {
        # serving listens through http and refuses with its errors; anchor speaks to the broker; the gateway is a room
        # beside serving, with arrows to http (bodies, logins), storage, telemetry, client, contracts and errors, and
        # from processes and cli; bridges serve; gateways read flags; exports tell other systems of a version; a recipe
        # runs an engine at the edge; a command puts terms right as the client does;
        # stories of lines are read with the client
        "streams": (19, 75),
        # and rollouts, below the registry that carries them out; a story tells of them; public suites are asked by
        # training, judged by gates and named in terms; memory has a form of prompts that training rehearses; prompts
        # and terms stand beside rollouts, below the registry; readings of drift are taken beside releases, of signals,
        # and move rounds and flags; who deletes a user's signals deletes the user's reactions; prompts and memory take
        # out the same marks of turns; changes of documents are told on lines, and their versions are signed as
        # adapters are; choices among templates are taken beside releases, of signals, by the training's child, and add
        # to the registry what users chose
        "personalization": (21, 85),
        "personalization.training": (11, 31),
        # ledger and erasure note what is to be anchored; rotations are audited; the statement tells readings from
        # releases
        "privacy": (18, 44),
    }
    for house, (rooms, arrows) in most.items():
        found = arrows_of(house)
        assert circles_of(found) == [], house
        assert len(found) <= rooms, house
        assert sum(map(len, found.values())) <= arrows, house


def test_modules_stay_small():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert median(lines.values()) <= 160
    large = [
        path.relative_to(ROOT).as_posix()
        for path, count in lines.items()
        if count > SOFT_LIMIT
        and not SAYS_WHY.search(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
    ]
    assert large == [], "a module above the soft limit says in its docstring why it is long"


def test_no_module_has_a_name_that_means_anything_and_nothing():
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert [path for path in MODULES if path.stem in vague] == []


def test_database_classes_end_in_row():
    wrong = [
        f"{path.name}: {name}"
        for path in MODULES
        for name in re.findall(r"^class (\w+)\(SQLModel, table=True\)", path.read_text("utf-8"), re.MULTILINE)
        if not name.endswith("Row")
    ]
    assert wrong == []


# Written in two parts, so that this file does not hold the words it looks for.
FORBIDDEN = [
    "/" + "work/main", "/" + "work/venv", "/" + "work/shared", "/" + "root/", "pypi" + ".org",
    "files." + "pythonhosted", "repo.maven." + "apache.org", "deb." + "debian.org", "TO" + "DO", "FIX" + "ME",
]  # fmt: skip


@pytest.mark.parametrize("word", FORBIDDEN)
def test_no_machine_path_registry_host_or_left_over_note(word):
    found = [
        path.relative_to(ROOT).as_posix()
        for path in _tracked_files()
        if word in path.read_text("utf-8", errors="ignore")
    ]
    assert found == []


def test_a_benchmark_that_is_run_by_its_path_finds_the_packages():
    """Python looks into the script's own folder first, and there ``privacy.py`` is a benchmark."""
    line = "sys.path.insert(0, str(Path(__file__).resolve().parents[2]))"
    scripts = {path.name: path.read_text("utf-8") for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
    runnable = {name: text for name, text in scripts.items() if 'if __name__ == "__main__":' in text}
    assert len(runnable) > 5
    assert [name for name, text in runnable.items() if line not in text] == []


def test_compose_file_fits_the_specification():
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
