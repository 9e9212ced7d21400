"""The demonstration's child processes are asked to stop, asked again, and only then killed."""

from __future__ import annotations

import os
import time

import pytest

from streams.demo import processes
from streams.demo.processes import Child

PROGRAM = """#!/bin/sh
asked=0
trap 'asked=$((asked + 1)); [ "$asked" -lt {patience} ] || { echo "left in order"; exit 0; }' TERM
echo ready
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize(("patience", "last"), [(1, "left in order"), (2, "left in order"), (3, "ready")])
def test_a_child_is_asked_twice_before_it_is_killed(tmp_path, monkeypatch, patience, last):
    program = tmp_path / "program"
    program.write_text(PROGRAM.replace("{patience}", str(patience)), "utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(program))
    monkeypatch.setattr(processes, "LAST_SECONDS", 2.0)
    child = Child("program", [], environment=os.environ, log=tmp_path / "log")
    end = time.monotonic() + 30
    while "ready" not in child.log.read_text("utf-8") and time.monotonic() < end:
        time.sleep(0.02)
    child.ask_to_stop()
    child.wait(2.0)
    assert child.log.read_text("utf-8").splitlines()[-1] == last
