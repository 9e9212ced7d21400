"""Child processes of the demonstration: started with a log each, watched, and always stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from streams.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

STOP_SECONDS = 10.0
LAST_SECONDS = 5.0

# The shell becomes the command; a helper beside it waits on a pipe whose other end this process holds.
# However this process dies, the helper then reads the end of the file and ends the command.
# The pipe is the shell's standard input, moved to 3, for a shell may know one-digit descriptors only.
_GUARDED = 'exec 3<&0; (read -r _ <&3 || kill $$) & exec "$@" 3<&- </dev/null'


class Child:
    """One command of ``discreet`` as a process of its own."""

    def __init__(self, name: str, arguments: list[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        read_end, self._guard = os.pipe()
        command = [sys.executable, "-m", "streams.cli.main", *arguments]
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                    ["/bin/sh", "-c", _GUARDED, name, *command],
                    env=dict(environment),
                    stdin=read_end,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches the demo, which then stops its children in order
                )
        finally:
            os.close(read_end)

    def check(self) -> None:
        """Raise when the process has ended.

        Raises:
            DemoError: with the status and the last line of its log.
        """
        status = self._process.poll()
        if status is not None:
            lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
            last = lines[-1][:300] if lines else "it wrote nothing"
            raise DemoError(f"the {self.name} ended with status {status}: {last} (its log is {self.log})")

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the end; after ``seconds`` the process is asked again, and at last it is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.ask_to_stop()  # a trainer then puts its job down and removes the job's folder
            try:
                self._process.wait(LAST_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        with contextlib.suppress(OSError):
            os.write(self._guard, b"\n")
        os.close(self._guard)


class Children:
    """All child processes; leaving the context stops them, the newest first."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            child.ask_to_stop()
        end = time.monotonic() + STOP_SECONDS
        for child in reversed(self._children):
            child.wait(max(0.1, end - time.monotonic()))

    def start(self, name: str, *arguments: str, secrets: Mapping[str, str] | None = None) -> Child:
        """Start ``discreet`` with ``arguments`` (output: ``<name>.log``), and ``secrets`` in its environment alone."""
        log = self._logs / f"{name}.log"
        environment = {**self._environment, **(secrets or {})}
        child = Child(name, list(arguments), environment=environment, log=log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raise when one of the processes has ended.

        Raises:
            DemoError: naming the process, its status and the last line of its log.
        """
        for child in self._children:
            child.check()
