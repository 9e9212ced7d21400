"""Start from nothing: make the environment that the project needs, then run it. Standard library only.

    python3 -m streams demo [options]      install if needed, then the demonstration
    python3 -m streams test [options]      install if needed, then the test suite
    python3 -m streams <command> …         install if needed, then any other command of `discreet`

Run from a checkout with Python 3.11 or later and a package index (the one that pip is configured for).
Everything goes into ``.venv`` beside this folder, from the pinned and hashed list ``.ci/requirements.txt``. A
stamp of that list is kept, so that a second start installs nothing and takes no time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "discreet.stamp"
INSTALLER_LIST = ROOT / ".ci" / "requirements-uv.txt"
PACKAGE_LIST = ROOT / ".ci" / "requirements.txt"
MOST_TEST_PROCESSES = 4  # each loads torch, and some tests start processes of their own
USAGE = "usage: python3 -m streams demo|test|<command> [options]   (try: python3 -m streams demo)"


class StartError(Exception):
    """The environment cannot be made; the text says what is missing and what to do."""


def wanted_stamp() -> str:
    """Return the digest of everything that decides what ``.venv`` holds."""
    digest = hashlib.sha256()
    for path in (INSTALLER_LIST, PACKAGE_LIST, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    digest.update(f"{ROOT}\0{sys.version_info[:2]}".encode())
    return digest.hexdigest()


def is_ready() -> bool:
    """Say whether ``.venv`` was completed from the present lists."""
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text("utf-8") == wanted_stamp()


def check_python() -> None:
    """Refuse a Python that is too old or that cannot make virtual environments.

    Raises:
        StartError: with the sentence to show.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise StartError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old; "
            "discreet needs 3.11 or later: run the same command with a newer python3."
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise StartError(
                f"This Python came without its module {module}; install it and try again "
                "(on Debian and Ubuntu: apt-get install python3-venv)."
            )


def step(number: int, text: str, command: list[str], environment: dict[str, str]) -> None:
    """Run one numbered step and say how long it took.

    Raises:
        StartError: the command could not be run or failed (its own output stands above the sentence).
    """
    print(f"[{number}/4] {text} …", flush=True)
    started = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status != 0:
        raise StartError(
            f"Step {number} of 4 ({text}) failed with status {status}; the lines above say why. "
            "Check that the package index is reachable, then run the same command again."
        )
    print(f"[{number}/4] done in {time.monotonic() - started:.0f} s", flush=True)


def index_settings() -> dict[str, str]:
    """Carry pip's index and certificate settings over to uv, which does not read pip's configuration."""
    names = {"UV_DEFAULT_INDEX": "index-url", "UV_INDEX": "extra-index-url", "SSL_CERT_FILE": "cert"}
    found: dict[str, str] = {}
    for variable, key in names.items():
        if variable in os.environ:
            continue
        value = os.environ.get("PIP_" + key.upper().replace("-", "_"), "")
        for section in ("install", "global"):
            if not value:
                asked = [str(PYTHON), "-m", "pip", "config", "get", f"{section}.{key}"]
                answer = subprocess.run(asked, capture_output=True, text=True, check=False)
                value = answer.stdout.strip() if answer.returncode == 0 else ""
        if value:
            found[variable] = value
    return found


def install() -> None:
    """Make ``.venv`` and put the pinned packages and this checkout into it.

    Raises:
        StartError: a step failed.
    """
    check_python()
    STAMP.unlink(missing_ok=True)
    base = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip_install = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "-r",
        str(INSTALLER_LIST),
    ]
    step(1, "making .venv", [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], base)
    step(2, "installing the installer", [*pip_install, "-r", str(INSTALLER_LIST)], base)
    uv = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON), "--no-deps", "--no-config"]
    with_index = {**base, **index_settings()}
    # Compiled once here: where Python may not write what it compiles, every process would compile torch again.
    packages = ["--require-hashes", "--compile-bytecode", "-r", str(PACKAGE_LIST)]
    step(3, "installing the packages", [*uv, *packages], with_index)
    step(4, "installing discreet", [*uv, "--no-build-isolation", "--editable", str(ROOT)], with_index)
    STAMP.write_text(wanted_stamp(), "utf-8")


def start(arguments: list[str]) -> None:
    """Replace this process by the asked command, run inside ``.venv``."""
    if arguments[0] == "test":
        # A file's tests stay in one process, so its fixtures are made once; options that come later win (``-n 0``).
        ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # One more than cores: many tests wait for processes of their own, or for a clock.
        spread = ["-n", str(min(ours + 1, MOST_TEST_PROCESSES))]
        spread += ["--dist", "loadfile", "--no-loadscope-reorder"]
        command = ["-m", "pytest", *spread, *arguments[1:]]
        os.chdir(ROOT)
    else:
        command = ["-m", "streams.cli.main", *arguments]
    sys.stdout.flush()
    os.execv(PYTHON, [str(PYTHON), *command])


def main() -> int:
    """Install what is missing and start the command; only a failure returns."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if arguments else 2
    try:
        if not is_ready():
            print(
                "First start: installing into .venv (about 3 GB, some minutes; later starts skip this).",
                flush=True,
            )
            install()
    except StartError as error:
        print(f"discreet: {error} [start.failed]", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    start(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
