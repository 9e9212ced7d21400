"""One real vLLM for all tests of a run: starting it takes minutes, so that is done once, and when it is killed."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from streams.demo.environment import free_port
from streams.errors import EngineUnreachableError
from streams.serving.engines.install import vllm_command
from streams.serving.engines.wire import EngineHttp
from tests.fakes.tiny_models import write_tiny_base

REAL_VLLM = "DISCREET_TEST_VLLM"  # where `discreet bridge vllm --install-engine` put it
START_SECONDS = 900.0
KEY, MODEL = "engine-key", "tiny-base"
MOST_RANK, CAPACITY = 16, 4
MOST_TOKENS = 2_048


class RealVllm:
    """A server in a process group of its own, with random weights that one core answers with quickly."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="discreet-vllm-"))
        self.base = write_tiny_base(self._folder / "base", hidden=256, embedding=0.06)  # can be trained
        config = json.loads((self.base / "config.json").read_text())
        config["max_position_embeddings"] = MOST_TOKENS  # so that a request can last for a while
        (self.base / "config.json").write_text(json.dumps(config))
        self.port = free_port()
        self.http = EngineHttp(f"http://127.0.0.1:{self.port}", KEY, timeout_seconds=120)
        self.log = self._folder / "vllm.log"
        self.starts: list[float] = []  # seconds of each
        self._process: subprocess.Popen | None = None
        atexit.register(self.kill)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            *vllm_command(os.environ[REAL_VLLM]),
            *("--model", str(self.base), "--served-model-name", MODEL, "--host", "127.0.0.1"),
            *("--port", str(self.port), "--api-key", KEY, "--dtype", "float32"),
            *("--max-model-len", str(MOST_TOKENS), "--max-num-batched-tokens", "256"),
            *("--enable-lora", "--max-lora-rank", str(MOST_RANK)),
            *("--max-loras", "2", "--max-cpu-loras", str(CAPACITY)),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**environment, "OMP_NUM_THREADS": "1", "VLLM_ENGINE_READY_TIMEOUT_S": "900"},
            )
        while time.monotonic() - began < START_SECONDS:
            if self._process.poll() is not None:
                break
            try:
                if self.http.ask("/health", seconds=5.0).status == 200:
                    self.starts.append(time.monotonic() - began)
                    return
            except EngineUnreachableError:
                pass
            time.sleep(0.5)
        self.kill()
        raise RuntimeError("vLLM did not start:\n" + self.log.read_text(errors="replace")[-4_000:])

    def kill(self) -> None:
        """End all of its processes, as a crash of the machine would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextmanager
    def busy(self, name: str):
        """Have a request with an adapter run or wait at any time until the end of the block; each is answered."""
        body = {"model": name, "prompt": [1, 2, 3], "max_tokens": 96, "ignore_eos": True}
        ended, counts = threading.Event(), [0, 0, 0]

        def ask(number):
            while not ended.is_set():
                answer = self.http.ask("/v1/completions", body, seconds=300)
                assert answer.status == 200
                assert answer.json()["usage"]["completion_tokens"] == body["max_tokens"]
                counts[number] += 1

        threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(counts))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join(300)
        assert min(counts) > 0, "every one was answered, and none with an error"


@cache
def real_vllm() -> RealVllm:
    """Return the one of this run, started when it is first asked for."""
    return RealVllm()
