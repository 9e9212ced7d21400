"""The demonstration with real processes, the embedded broker and a tiny base model, in small bounds."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from streams.demo.report import show
from streams.demo.run import DemoOptions, run_demo
from streams.errors import DemoError
from tests.fakes.tiny_models import write_tiny_base

TENANT_KEYS = {
    "tenant", "users", "signals", "heldout_users", "epsilon", "target_epsilon", "delta", "nll_base",
    "nll_adapter", "adapter_version", "served_name", "ledger_state",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def _processes_naming(path: Path) -> list[int]:
    """Return the processes whose environment names ``path``, this one excepted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(path).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return [pid for pid in found if pid != os.getpid()]


def _all_are_gone(path: Path) -> bool:
    """Whether the processes that name ``path`` end; the helper beside each child ends a moment after it."""
    end = time.monotonic() + 90
    while _processes_naming(path):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.timeout(600)
def test_from_events_to_answers(tiny_base, tmp_path):
    text = io.StringIO()
    console = Console(file=text, width=160)
    state = tmp_path / "state"
    options = DemoOptions(max_users=24, base_model=str(tiny_base), keep=state)
    report = run_demo(options, console)
    show(report, console)
    report.write(tmp_path / "demo.json")
    document = json.loads((tmp_path / "demo.json").read_text("utf-8"))

    events = document["events"]
    assert events["published"] == events["stored"] + events["dead_lettered"]
    assert events["dead_lettered"] == 4
    assert len(document["tenants"]) == 3
    for tenant in document["tenants"]:
        assert set(tenant) >= TENANT_KEYS
        assert tenant["users"] == 24
        assert tenant["heldout_users"] >= 5
        assert 24 <= tenant["signals"] <= 24 * 4
        assert 0 < tenant["epsilon"] <= tenant["target_epsilon"]
        assert tenant["ledger_state"] == "committed"
        assert tenant["adapter_version"] == 1
        assert tenant["served_name"].endswith("-v1")
        assert tenant["nll_adapter"] != tenant["nll_base"]
    assert {"start", "publish", "ingest", "train", "serve", "judge"} <= set(document["seconds"])
    shown = text.getvalue()
    for phrase in ("ε spent", "unseen", "with adapter", "dead-lettered"):
        assert phrase in shown
    assert _all_are_gone(state)


@pytest.mark.timeout(400)
def test_ctrl_c_stops_every_process(tiny_base, tmp_path):
    state = tmp_path / "state"
    words = ["demo", "--max-users", "10", "--base-model", str(tiny_base), "--keep", str(state)]
    command = [sys.executable, "-m", "streams.cli.main", *words]
    # A job that a script put into the background ignores SIGINT, and so would everything it starts.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGINT, kept)
    end = time.monotonic() + 180
    while not (state / "logs" / "serve.log").exists():
        assert demo.poll() is None, demo.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    assert _processes_naming(state)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=180)
    assert demo.returncode == 130, output
    assert _all_are_gone(state)


def test_an_error_that_an_interrupt_provoked_is_the_interrupt(tiny_base, tmp_path, monkeypatch):
    def broken_off(*_):
        raise DemoError("no broker lets us in")

    monkeypatch.setattr("streams.demo.run._Demo.run", broken_off)
    asked = DemoOptions(max_users=10, base_model=str(tiny_base), keep=tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run_demo(asked, Console(file=io.StringIO()), stop_asked=lambda: True)
    left_alone = DemoOptions(max_users=10, base_model=str(tiny_base), keep=tmp_path / "two")
    with pytest.raises(DemoError):
        run_demo(left_alone, Console(file=io.StringIO()))


@pytest.mark.timeout(300)
def test_a_process_that_dies_ends_the_demonstration_with_its_last_words(tiny_base, tmp_path, monkeypatch):
    from streams.demo.environment import DemoEnvironment

    good = DemoEnvironment.variables
    monkeypatch.setattr(
        DemoEnvironment, "variables", lambda self: {**good(self), "DISCREET_SERVING__PUBLIC_KEYS": ""}
    )
    options = DemoOptions(max_users=10, base_model=str(tiny_base), keep=tmp_path / "state")
    with pytest.raises(DemoError, match=r"the serve ended with status 2: .*no public key is set"):
        run_demo(options, Console(file=io.StringIO()))
    assert _all_are_gone(tmp_path / "state")
