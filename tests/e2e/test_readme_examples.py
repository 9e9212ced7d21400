"""What the documents show is run as it stands, against the embedded broker, SQLite and a tiny base model.

A page's blocks run in one shell, in their order. What must not be run inside a test (the demonstration and the test
suite, which have tests of their own) is compared with what offers it.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import typer

from streams.broker.embedded import EmbeddedBroker
from streams.cli.main import app, load_command
from streams.demo.environment import free_port
from streams.settings import Settings
from tests.fakes.tiny_models import write_tiny_base
from tests.mutation.__main__ import parser

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OPERATING = ROOT / "streams" / "docs" / "operating.md"
LOGINS = ROOT / "streams" / "docs" / "broker-logins.md"
GATEWAY = ROOT / "streams" / "docs" / "gateway.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [path for name in ("", "privacy/**/", "streams/**/") for path in sorted(ROOT.glob(f"{name}*.md"))]
NOT_SETTINGS = {
    "DISCREET_TEST_BAO",
    "DISCREET_TEST_KAFKA",
    "DISCREET_TEST_LLAMACPP",
    "DISCREET_TEST_PGVECTOR",
    "DISCREET_TEST_POSTGRES",
    "DISCREET_TEST_VLLM",
    "DISCREET_HYPOTHESIS",
    "DISCREET_LEDGER_EXAMPLES",
}
BUNDLED = "smollm2-135m-instruct"


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path):
    """Run a script where ``.venv/bin`` holds ``discreet`` and ``python``; whatever it started ends with it."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in {"discreet": "-m streams.cli.main", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', "utf-8")
        (programs / name).chmod(0o755)
    base = write_tiny_base(tmp_path / "base")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")}

    def run(script: str, **variables: str) -> str:
        assert BUNDLED in script
        process = subprocess.Popen(
            ["/bin/bash", "-e", "-c", script.replace(BUNDLED, str(base))],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(ROOT), "DISCREET_TRAINER__THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=360)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        logs = [f"{path.name}:\n{path.read_text('utf-8')}" for path in tmp_path.glob("*.log")]
        assert process.returncode == 0, "\n".join([output, *logs])
        return output

    return run


def test_the_two_commands_are_those_of_the_starter():
    start = _blocks(README, "sh")[0]
    assert re.findall(r"^python3 -m streams (\w+)", start, re.MULTILINE) == ["demo", "test"]


@pytest.mark.timeout(400)
def test_publish_train_ask(shell, tmp_path):
    _, start, memory = _blocks(README, "sh")
    (example,) = _blocks(README, "python")
    assert len(example.splitlines()) <= 18
    assert "`kill $(jobs -p)`" in README.read_text("utf-8")
    broker, worker, server = (str(free_port()) for _ in range(3))
    assert start.count("discreet broker ") == 1
    start = start.replace("discreet broker ", f"discreet broker --port {broker} ")
    for written, free in {"9092": broker, "6066": worker}.items():
        start, example = start.replace(written, free), example.replace(written, free)
    (tmp_path / "example.py").write_text(example, "utf-8")
    output = shell(
        f"{start}\npython example.py\n{memory}\nkill $(jobs -p)\nwait",
        DISCREET_BROKER__BOOTSTRAP=f"127.0.0.1:{broker}",
        DISCREET_HTTP__PORT=worker,
        DISCREET_SERVING__PORT=server,
    )
    asked = re.findall(r"^(base model|a-\w+-v1) \(loss (\d+\.\d+)\): ", output, re.MULTILINE)
    (base, without), (adapter, with_it) = asked
    assert base == "base model" != adapter
    assert without != with_it
    assert f"served_name={adapter}" in output  # as the trainer announced it
    found, gone = output.partition("refunds version 1: removed")[::2]
    assert "default/refunds@1#" in found
    assert "There are no documents." in gone


@pytest.mark.timeout(400)
def test_the_operators_page_runs_from_top_to_bottom(shell):
    script = "\n".join(_blocks(OPERATING, "sh"))
    passes = "meta build --method maml"
    assert script.count(passes) == 1
    script = script.replace(passes, f"{passes} --outer-steps 2")  # how well it starts is not asked here
    with EmbeddedBroker() as broker:
        output = shell(script, DISCREET_BROKER__BOOTSTRAP=broker.bootstrap)
    for said in ("agreed with legal", "verify.", "tenants served", "The line serves", "rounds were taken"):
        assert said in output


@pytest.mark.timeout(400)
def test_the_gateways_page_runs_from_top_to_bottom(shell, tmp_path):
    (script,), (example,) = _blocks(GATEWAY, "sh"), _blocks(GATEWAY, "python")
    broker, server, gateway = (str(free_port()) for _ in range(3))
    script = script.replace("discreet broker ", f"discreet broker --port {broker} ")
    for written, free in {"9092": broker, "6080": gateway}.items():
        script, example = script.replace(written, free), example.replace(written, free)
    (tmp_path / "example.py").write_text(example, "utf-8")
    output = shell(
        f"{script}\npython example.py\nkill $(jobs -p)\nwait",
        DISCREET_BROKER__BOOTSTRAP=f"127.0.0.1:{broker}",
        DISCREET_SERVING__PORT=server,
        DISCREET_GATEWAY__URL=f"http://127.0.0.1:{server}",
        DISCREET_GATEWAY__PORT=gateway,
    )
    assert "HTTP/1.1 200 OK" in output
    assert "x-discreet-reason: no_line" in output
    for comment in re.findall(r"print\(.*\)  # (.*)", example):
        assert f"{comment}\n" in output


def test_no_page_shows_a_block_that_no_test_runs():
    run_here = {README, OPERATING, CONTRIBUTING, GATEWAY}
    # by the client's contract, and by the engines' test of machines that are often offline
    run_elsewhere = {ROOT / "streams/client/README.md", ROOT / "streams/docs/edge.md"}
    by_commands = {
        ROOT / f"streams/docs/{name}.md" for name in ("memory", "prompts", "terms")
    }  # by the tests of the commands that it shows
    for page in PAGES:
        assert page in run_here | by_commands or not _blocks(page, r"(?:ba)?sh"), page
        assert page in {README, GATEWAY, *run_elsewhere} or not _blocks(page, "python"), page


def test_the_contributors_commands_are_those_of_the_starter_and_of_ci():
    tests, checks, guarantee = (block.splitlines() for block in _blocks(CONTRIBUTING, "sh"))
    mutation = [line for line in guarantee if line.startswith("python3 -m tests.mutation ")]
    assert len(mutation) == 3
    for line in mutation:
        parser().parse_args(shlex.split(line, comments=True)[3:])
    for line in [*tests, *(line for line in guarantee if line not in mutation)]:
        command, _, path = line.partition("#")[0].strip().partition(" test")
        assert command.removeprefix("DISCREET_HYPOTHESIS=search ") == "python3 -m streams"
        path = path.strip().removesuffix(" -m slow")
        assert not path or list((ROOT / path).rglob("test_*.py")), line
    ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()]
    assert [line for line in checks if line not in ci] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_settings_in_the_text_exist(page):
    text = page.read_text("utf-8")
    shown = re.findall(
        r"`(?:discreet|python3 -m streams)\s+([^`<]+)`", text
    )  # also where a line ends within it
    shown += re.findall(r"^    discreet ([^\n<]+)$", text, re.MULTILINE)  # a block without a fence
    for words in shown:
        named = [word for word in words.split() if "…" not in word]
        if named:
            _check_command(named)
    sections = Settings.model_fields
    settings = {f"DISCREET_{name.upper()}" for name in sections}
    for name, section in sections.items():
        for field in getattr(section.annotation, "model_fields", ()):
            settings.add(f"DISCREET_{name.upper()}__{field.upper()}")
    named = set(re.findall(r"DISCREET_[A-Z_]*[A-Z]", text))
    assert named - settings - NOT_SETTINGS - {"DISCREET_BROKER"} == set()


def _check_command(words: list[str]) -> None:
    command = typer.main.get_command(app)
    if words[0] == "test":
        return
    if not words[0].startswith("-"):
        command = load_command(words[0])
    for word in words[1:]:
        if hasattr(command, "commands") and not word.startswith("-"):
            command = command.commands[word]
    known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
    assert {word for word in words if word.startswith("--")} <= known, words


def test_the_logins_page_names_settings_that_exist():
    fields = {name.upper() for name in Settings.model_fields["broker"].annotation.model_fields}
    table = [line for line in LOGINS.read_text("utf-8").splitlines() if line.startswith("|")][2:]
    named = {name for line in table for name in re.findall(r"`([A-Z_]+)(?:=[\w-]+)?`", line)}
    assert named <= fields
    assert {"OAUTH_TOKEN_URL", "CA_FILE", "SASL_PASSWORD"} <= named
