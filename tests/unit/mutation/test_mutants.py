"""The list of mutants is true to the code: each stands in it once, and each names tests that are there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mutation import harness
from tests.mutation.__main__ import chosen
from tests.mutation.harness import Verdict, examine, mutated
from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[3]


def test_names_are_unique():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_names_tests_that_exist(mutant):
    text = mutated((ROOT / mutant.file).read_text("utf-8"), mutant)
    ast.parse(text)
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        source = (ROOT / path).read_text("utf-8")
        assert not name or f"def {name}(" in source, test


def test_a_text_that_is_not_there_once_is_an_error():
    mutant = Mutant(name="m", file="f", old="a", new="b", why="w", tests=())
    assert mutated("xax", mutant) == "xbx"
    for text in ("", "aa"):
        with pytest.raises(ValueError, match="exactly once"):
            mutated(text, mutant)


def test_a_slice_is_repeatable_and_a_name_is_looked_up():
    assert chosen([], 5, 3) == chosen([], 5, 3) != chosen([], 5, 4)
    assert chosen([], None, 0) == list(MUTANTS)
    (one,) = chosen(["caps-can-rise"], None, 0)
    assert one.name == "caps-can-rise"
    with pytest.raises(SystemExit, match="no mutant"):
        chosen(["nothing"], None, 0)


@pytest.mark.parametrize(
    ("new", "verdict", "timeout"),
    [
        ("return 2", Verdict.KILLED, 120.0),
        ("return 1 + 0", Verdict.SURVIVED, 120.0),
        ("while True: pass", Verdict.ERROR, 6.0),
    ],
)
def test_the_harness_tells_the_killed_from_the_others(tmp_path, monkeypatch, new, verdict, timeout):
    monkeypatch.setattr(harness, "LARGE", ())
    monkeypatch.setattr(harness, "TIMEOUT", timeout)
    (tmp_path / "code.py").write_text("def one():\n    return 1\n")
    (tmp_path / "test_code.py").write_text(
        "import importlib.util\n\n\ndef test_one():\n"
        "    spec = importlib.util.spec_from_file_location('mutant_code', 'code.py')\n"
        "    module = importlib.util.module_from_spec(spec)\n    spec.loader.exec_module(module)\n"
        "    assert module.one() == 1\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    mutant = Mutant(name="m", file="code.py", old="return 1", new=new, why="w", tests=("test_code.py",))
    (outcome,) = examine(tmp_path, [mutant])
    assert outcome.verdict is verdict


def test_whoever_ends_it_ends_its_tests_and_removes_its_copy(tmp_path):
    """Continuous integration ends it by a signal when something else failed; its tests are in sessions of their own."""
    tree, left, told = tmp_path / "tree", tmp_path / "left", tmp_path / "pid"
    tree.mkdir()
    left.mkdir()
    (tree / "test_code.py").write_text(
        f"import os, pathlib, time\n\n\ndef test_one():\n    pathlib.Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    script = (
        "import sys\nfrom pathlib import Path\nfrom tests.mutation import __main__ as command, harness, mutants\n"
        "harness.LARGE, command.ROOT = (), Path(sys.argv[1])\n"
        "one = dict(name='m', file='test_code.py', old='60', new='61', why='w', tests=('test_code.py',))\n"
        "command.MUTANTS = [mutants.Mutant(**one)]\nsys.exit(command.main([]))\n"
    )
    environment = {**os.environ, "TMPDIR": str(left), "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-c", script, str(tree)], cwd=ROOT, env=environment)
    try:
        end = time.monotonic() + 60
        while not (told.exists() and told.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        running.terminate()
        assert running.wait(30) == 143
        assert list(left.iterdir()) == []
        while Path(f"/proc/{told.read_text()}").exists() and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(ProcessLookupError):
            os.kill(int(told.read_text()), 0)
    finally:
        running.kill()
        running.wait()
