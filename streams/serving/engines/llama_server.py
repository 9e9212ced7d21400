"""Run llama.cpp's server with a set of adapters; another set needs another start.

Every adapter is given with scale 0 at the start: otherwise all of them are added up in every answer. The key goes by
the environment.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from streams.errors import EngineLoadError, EngineUnreachableError
from streams.serving.engines.wire import EngineHttp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

START_SECONDS = 120.0
STOP_SECONDS = 10.0
LOOPBACK = "127.0.0.1"


class LlamaServer:
    """One process at a time on one port.

    Args:
        command: program and arguments up to the adapters: base model, context and the like, without host and port.
        port: where it listens; 0 picks a free one at each start.
        key: which requests must carry.
        log: file for what it says.
    """

    def __init__(self, command: Sequence[str], *, port: int, key: str, log: Path) -> None:
        self._command = tuple(command)
        self._port = port
        self._key = key
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.http = EngineHttp(f"http://{LOOPBACK}:{port}", key)

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, adapters: Mapping[str, Path]) -> None:
        """Start with these adapters, in the order of their names, and wait until it answers.

        Raises:
            EngineLoadError: it ended at once: it does not take one of the files.
            EngineUnreachableError: it does not answer in time.
        """
        self.stop()
        port = self._port or _free_port()
        self.http = EngineHttp(f"http://{LOOPBACK}:{port}", self._key)
        arguments = [*self._command, "--host", LOOPBACK, "--port", str(port)]
        for name in sorted(adapters):
            arguments += ["--lora-scaled", f"{adapters[name]}:0"]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # the operator's own command
                arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, "LLAMA_API_KEY": self._key},
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if not self.runs:
                raise EngineLoadError(f"llama.cpp ended at its start with status {self._process.returncode}")
            try:
                if self.http.ask("/health", seconds=2.0).status == 200:
                    return
            except EngineUnreachableError:
                pass
            time.sleep(0.02)
        self.stop()
        raise EngineUnreachableError(f"llama.cpp did not answer within {START_SECONDS:g} s of its start")

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as found:
        return int(found.getsockname()[1])
