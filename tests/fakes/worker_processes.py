"""Real worker processes for the chaos suite, whose wall clocks can be stepped.

A worker is the command ``discreet worker`` in a process of its own. It comes from an interpreter of its own
(``forked=False``) or is forked from one that has imported the code and done nothing else, which saves the seconds of
importing at each start. The clock that is stepped is the one that our code and the Kafka clients read:
``SystemClock.now`` and ``time.time``; the monotonic clock goes on as it does when an operating system's clock is set.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1


class SteppedClock:
    """The machine's clock plus the seconds written in a file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._time = time.time
        self._looked = -LOOK_SECONDS
        self._offset = 0.0

    def offset(self) -> float:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._offset = float(self._path.read_text() or 0)
        return self._offset

    def install(self) -> None:
        from privacy.clock import SystemClock

        real_now = SystemClock.now
        SystemClock.now = SystemClock.__call__ = lambda clock: (
            real_now(clock) + timedelta(seconds=self.offset())
        )
        time.time = lambda: self._time() + self.offset()


def work(clock_path: str) -> None:
    """Be a worker until the end, of the one that started it at the latest."""
    from streams.cli.main import main

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    SteppedClock(clock_path).install()
    sys.exit(main(["worker"]))


def _forked(environment: dict[str, str], log_path: str, clock_path: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work(clock_path)


class WorkerProcess:
    """One worker process: its id, its end, and signals to it."""

    def __init__(
        self, number: int, environment: dict[str, str], log: Path, clock: Path, *, forked: bool
    ) -> None:
        self.number = number
        self._popen: subprocess.Popen[bytes] | None = None
        if forked:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(
                ["tests.fakes.worker_processes", "streams.cli.worker", "streams.processes.worker"]
            )
            self._process = context.Process(target=_forked, args=(environment, str(log), str(clock)))
            self._process.daemon = True
            self._process.start()
            self.pid = self._process.pid
            return
        command = [sys.executable, "-m", "tests.fakes.worker_processes", str(clock)]
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
        self.pid = self._popen.pid

    def poll(self) -> int | None:
        """Return how it ended; ``None`` while it runs."""
        return self._popen.poll() if self._popen is not None else self._process.exitcode

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; ``None`` when it goes on for longer."""
        if self._popen is None:
            self._process.join(seconds)
            return self._process.exitcode
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)


if __name__ == "__main__":
    work(sys.argv[1])
