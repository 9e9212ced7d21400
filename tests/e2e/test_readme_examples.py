"""The README's examples are run as they stand, against the embedded broker and SQLite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streams.embedded_broker import EmbeddedBroker

README = Path(__file__).resolve().parents[2] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def broker():
    with EmbeddedBroker() as running:
        yield running.bootstrap


@pytest.fixture
def shell(tmp_path, broker):
    """Run a script with `discreet` on the path and the broker's address in the settings."""
    program = tmp_path / "bin" / "discreet"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streams.cli.main "$@"\n', "utf-8")
    program.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")},
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(README.parent),
        "DISCREET_BROKER__BOOTSTRAP": broker,
    }

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-e", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_two_commands_are_those_of_the_starter():
    start = _blocks("sh")[0]
    assert re.findall(r"^python3 -m streams (\w+)", start, re.MULTILINE) == ["demo", "test"]


@pytest.mark.timeout(400)
def test_the_operators_commands_and_the_products_code_run(shell, broker):
    operator = _blocks("sh")[1]
    done = shell(operator)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "acme" in done.stdout
    assert "agreed with legal" in done.stdout

    product = _blocks("python")[0].replace("127.0.0.1:9092", broker)
    assert broker in product
    exec(compile(product, "README.md", "exec"), {})  # the events are confirmed by the broker when it returns
