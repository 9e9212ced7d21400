"""Apply a mutant to a copy of the tree, run its tests there, and say what became of it.

Tests run in children that are forked from this process, which has imported the large libraries beforehand and nothing
of the project: a child starts in milliseconds instead of the ten seconds that torch takes, and imports the mutated
tree.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.mutation.mutants import Mutant

TIMEOUT = 240.0  # seconds for the tests of one mutant
OWN = ("streams", "personalization", "privacy", "tests", "migrations")
LARGE = (
    "numpy", "scipy.stats", "scipy.optimize", "torch", "opacus", "transformers", "safetensors.torch", "sqlmodel",
    "pydantic", "hypothesis", "pytest", "cryptography", "dp_accounting", "alembic", "opacus.optimizers",
)  # fmt: skip
# pytest's exit statuses
_PASSED, _FAILED = 0, 1
_LOADED_BEFORE = "ignore::pytest.PytestAssertRewriteWarning"  # plugins are among what is imported here


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"  # a test failed
    SURVIVED = "survived"  # every test passed: what it breaks is not tested
    ERROR = (
        "error"  # its text is not in the code once, its tests fail without it, cannot be collected or hang
    )


@dataclass(frozen=True)
class Outcome:
    """A mutant's verdict."""

    mutant: str
    verdict: Verdict
    detail: str
    seconds: float

    def to_document(self) -> dict[str, object]:
        """Return a JSON-ready copy."""
        return {**asdict(self), "verdict": self.verdict.value, "seconds": round(self.seconds, 2)}


def mutated(text: str, mutant: Mutant) -> str:
    """Return a file's text with the mutant in it.

    Raises:
        ValueError: the old text does not stand there exactly once.
    """
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"its text is found {found} times in {mutant.file}; name it exactly once")
    return text.replace(mutant.old, mutant.new)


def examine(root: Path, mutants: Sequence[Mutant]) -> Iterator[Outcome]:
    """Yield the outcome of each mutant, after one run of all their tests on the unchanged tree."""
    _preload()
    with tempfile.TemporaryDirectory(prefix="discreet-mutants-") as folder:
        tree = Path(folder) / "tree"
        _copy(root, tree)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        status, output = _run(tree, tests, TIMEOUT * 5, to_the_end=True)
        failing = [line.split()[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        if status not in {_PASSED, _FAILED} or (status == _FAILED) != bool(failing):
            raise RuntimeError(f"the tests of the unchanged tree cannot be run: {_last(output)}")
        for mutant in mutants:
            began = time.monotonic()
            broken = [name for name in failing if name.startswith(mutant.tests)]
            if broken:
                verdict, detail = Verdict.ERROR, f"a test fails without it: {broken[0]}"
            else:
                verdict, detail = _examine(tree, mutant)
            yield Outcome(mutant.name, verdict, detail, time.monotonic() - began)


def _examine(tree: Path, mutant: Mutant) -> tuple[Verdict, str]:
    path = tree / mutant.file
    original = path.read_text("utf-8")
    try:
        path.write_text(mutated(original, mutant), "utf-8")
    except ValueError as error:
        return Verdict.ERROR, str(error)
    try:
        status, output = _run(tree, mutant.tests, TIMEOUT)
    finally:
        path.write_text(original, "utf-8")
    if status == _FAILED:
        return Verdict.KILLED, _last(output)
    if status == _PASSED:
        return Verdict.SURVIVED, mutant.why
    return (
        Verdict.ERROR,
        "its tests hang" if status is None else f"pytest ended with {status}: {_last(output)}",
    )


def _copy(root: Path, tree: Path) -> None:
    """Copy what git knows of, new files included, and nothing that was built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, tree / name)


def _preload() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in LARGE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _run(
    tree: Path, tests: Sequence[str], timeout: float, *, to_the_end: bool = False
) -> tuple[int | None, str]:
    """Run tests in a fork, up to the first that fails; return pytest's status, None when they hang, and their words."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(_in_child(tree, [*([] if to_the_end else ["-x"]), *tests], output.fileno()))
        end, status = time.monotonic() + timeout, None
        try:
            while status is None and time.monotonic() < end:
                done, waited = os.waitpid(child, os.WNOHANG)
                if done:
                    status = os.waitstatus_to_exitcode(waited)
                else:
                    time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # whatever the tests started
        if status is None:
            os.waitpid(child, 0)
        output.seek(0)
        return status, output.read()


def _in_child(tree: Path, arguments: Sequence[str], output: int) -> int:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    for name in [name for name in sys.modules if name.split(".", 1)[0] in OWN]:
        del sys.modules[name]
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    os.environ["PYTHONPATH"], os.environ["PYTHONDONTWRITEBYTECODE"] = (
        str(tree),
        "1",
    )  # of processes the tests start
    # One database and one broker, in this process: a mutant is about our code, not about a server's.
    for name in ("DISCREET_TEST_POSTGRES", "DISCREET_TEST_KAFKA"):
        os.environ.pop(name, None)
    import pytest

    quietly = [
        "-q",
        "--no-header",
        "--tb=no",
        "-W",
        _LOADED_BEFORE,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    try:
        return int(pytest.main([*quietly, *arguments]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _last(output: str) -> str:
    """Return the name of the test that failed, or the last line."""
    lines = [line for line in output.splitlines() if line.strip()]
    failed = next(
        (line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else ""
    )
    return failed.split(" - ", 1)[0][:200]
