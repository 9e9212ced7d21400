"""`python3 -m streams`: what it asks of the machine, and that a finished installation is not made again."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def starter(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("starter", ROOT / "streams" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = tmp_path / ".venv"
    monkeypatch.setattr(module, "ENVIRONMENT", environment)
    monkeypatch.setattr(module, "PYTHON", environment / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", environment / "stamp")
    return module


def test_it_and_its_package_import_the_standard_library_only():
    for name in ("__main__.py", "__init__.py"):
        tree = ast.parse((ROOT / "streams" / name).read_text("utf-8"))
        imported = {
            (node.module or "").split(".")[0]
            if isinstance(node, ast.ImportFrom)
            else alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert imported <= set(sys.stdlib_module_names)


def test_an_installation_is_ready_only_with_the_stamp_of_these_lists(starter):
    assert not starter.is_ready()
    starter.PYTHON.parent.mkdir(parents=True)
    starter.PYTHON.touch()
    starter.STAMP.write_text("of other lists", "utf-8")
    assert not starter.is_ready()
    starter.STAMP.write_text(starter.wanted_stamp(), "utf-8")
    assert starter.is_ready()


def test_the_suite_runs_in_one_process_more_than_there_are_cores_but_not_in_too_many(starter, monkeypatch):
    asked = []
    monkeypatch.setattr(starter.os, "execv", lambda _program, words: asked.append(words))
    monkeypatch.setattr(starter.os, "chdir", lambda _folder: None)
    for cores, processes in ((1, "2"), (2, "3"), (64, "4")):
        monkeypatch.setattr(starter.os, "sched_getaffinity", lambda _pid, n=cores: set(range(n)))
        starter.start(["test", "-n", "0"])
        words = asked[-1]
        assert words[1:5] == ["-m", "pytest", "-n", processes]
        assert words[-2:] == ["-n", "0"]  # what was asked for wins


def test_an_old_python_is_refused_in_one_sentence(starter, monkeypatch):
    monkeypatch.setattr(starter.sys, "version_info", (3, 9, 1))
    with pytest.raises(starter.StartError, match=r"Python 3\.9 is too old; discreet needs 3\.11"):
        starter.check_python()


def test_a_python_without_venv_is_told_what_to_install(starter, monkeypatch):
    monkeypatch.setattr(starter.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(starter.StartError, match="apt-get install python3-venv"):
        starter.check_python()


def test_steps_run_in_order_and_the_stamp_comes_last(starter, monkeypatch):
    ran = []

    def run(command, **_options):
        assert not starter.STAMP.exists()
        ran.append(command)
        starter.ENVIRONMENT.mkdir(exist_ok=True)
        return type("Done", (), {"returncode": 0, "stdout": ""})()

    monkeypatch.setattr(starter.subprocess, "run", run)
    starter.install()
    installs = [command for command in ran if "install" in command]
    assert "--require-hashes" in installs[0]
    assert "--require-hashes" in installs[1]
    assert "--no-deps" in installs[1]
    assert installs[2][-2:] == ["--editable", str(ROOT)]
    assert starter.STAMP.read_text("utf-8") == starter.wanted_stamp()


def test_a_failing_step_names_itself_and_leaves_no_stamp(starter, monkeypatch, capsys):
    monkeypatch.setattr(starter.subprocess, "run", lambda *_a, **_k: type("Done", (), {"returncode": 3})())
    monkeypatch.setattr(starter.sys, "argv", ["streams", "demo"])
    assert starter.main() == 1
    assert "Step 1 of 4 (making .venv) failed with status 3" in capsys.readouterr().err
    assert not starter.STAMP.exists()


def test_pips_index_is_handed_to_uv(starter, monkeypatch):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "SSL_CERT_FILE", "PIP_EXTRA_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setattr(
        starter.subprocess, "run", lambda *_a, **_k: type("Done", (), {"returncode": 1, "stdout": ""})()
    )
    assert starter.index_settings() == {"UV_DEFAULT_INDEX": "https://index.example/simple"}


def test_commands_run_inside_the_environment(starter, monkeypatch):
    started = []
    monkeypatch.setattr(starter.os, "execv", lambda path, command: started.append((path, command)))
    starter.start(["demo", "--max-users", "20"])
    assert started == [
        (starter.PYTHON, [str(starter.PYTHON), "-m", "streams.cli.main", "demo", "--max-users", "20"])
    ]
