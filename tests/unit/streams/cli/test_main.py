"""The command line: what `--help` may import, how errors leave, and that its table of commands is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from privacy.errors import BudgetExhaustedError, StorageError
from streams.cli import main as command_line
from streams.cli.failures import BUG_STATUS, SYSTEM_STATUS, describe
from streams.client import EventRefusedError

HEAVY = ("torch", "faust", "sqlmodel", "sqlalchemy", "transformers", "kafka", "aiohttp", "opacus")


def test_help_answers_without_the_heavy_packages():
    program = (
        "import sys\n"
        "from streams.cli.main import main\n"
        "status = main(['--help'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else status)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, text in command_line.COMMANDS.items():
        assert name in done.stdout
        assert text.split(",")[0].split("(")[0].strip().rstrip(".")[:20] in done.stdout


def test_the_table_lists_every_command_file_and_no_other():
    files = {path.stem for path in Path(command_line.__file__).parent.glob("*.py")}
    assert set(command_line.COMMANDS) == {
        name for name in files if name not in {"__init__", "main", "failures"} and _is_command(name)
    }


def _is_command(name: str) -> bool:
    text = (Path(command_line.__file__).parent / f"{name}.py").read_text("utf-8")
    return "\napp = typer.Typer" in text or "\ndef command(" in text


@pytest.mark.parametrize("name", sorted(command_line.COMMANDS))
def test_every_command_loads_and_explains_itself(name, capsys):
    assert command_line.main([name, "--help"]) == 0
    assert "Usage: discreet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nonsense"], "discreet: No such command 'nonsense'. [cli.usage]\n"),
        (["db", "upgrade", "--nonsense"], "discreet: No such option: --nonsense. [cli.usage]\n"),
    ],
)
def test_a_usage_error_is_one_sentence(words, sentence, capsys):
    assert command_line.main(words) == 2
    assert capsys.readouterr().err == sentence


def test_our_errors_carry_code_and_status_to_the_shell(monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_DATABASE__URL", "nonsense:///x")
    assert command_line.main(["db", "current"]) == StorageError.exit_status
    error = capsys.readouterr().err
    assert error.endswith("[privacy.storage.unavailable]\n")
    assert error.count("\n") == 1


def test_a_wrong_setting_is_named_without_its_value(monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_MASTER_KEY", "c2VjcmV0")
    assert command_line.main(["db", "current"]) == 2
    error = capsys.readouterr().err
    assert "DISCREET_MASTER_KEY" in error
    assert "c2VjcmV0" not in error


def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, capsys):
    monkeypatch.setenv("DISCREET_DATABASE__URL", "nonsense:///x")
    assert command_line.main(["db", "current", "--debug"]) == StorageError.exit_status
    assert "Traceback" in capsys.readouterr().err


def test_the_text_of_a_foreign_exception_is_not_shown():
    failure = describe(RuntimeError("user u-17 wrote something"))
    assert "u-17" not in failure.sentence
    assert (failure.code, failure.exit_status) == ("internal.unexpected", BUG_STATUS)


def test_each_tree_and_group_is_described_by_its_own_code():
    exhausted = BudgetExhaustedError("asked 2, left 1; wait for the next period")
    assert describe(exhausted) == (
        "asked 2, left 1; wait for the next period.",
        "privacy.budget.exhausted",
        BudgetExhaustedError.exit_status,
    )
    assert describe(ExceptionGroup("several", [exhausted])).code == exhausted.code
    assert describe(EventRefusedError("no")).exit_status == EventRefusedError.exit_status
    assert describe(FileNotFoundError(2, "No such file", "x.json")).exit_status == SYSTEM_STATUS


def test_an_invalid_value_names_the_variable():
    class Section(BaseModel):
        port: int

    with pytest.raises(ValueError, match="valid integer") as caught:
        Section(port="secret")
    failure = describe(caught.value)
    assert failure.code == "settings.invalid"
    assert "DISCREET_PORT" in failure.sentence
    assert "secret" not in failure.sentence


def test_completion_offers_the_commands():
    result = CliRunner().invoke(
        command_line.app,
        [],
        env={"_DISCREET_COMPLETE": "complete_bash", "COMP_WORDS": "discreet te", "COMP_CWORD": "1"},
        prog_name="discreet",
    )
    assert "tenants" in result.output
