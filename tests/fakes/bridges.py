"""A bridge with everything around it, over a fake engine or a real one, for one suite of tests."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path

from personalization.planning.model_shape import read_shape
from streams.client import AdapterCache, AdapterFeed
from streams.client.testing import FakeLine, InMemoryBroker
from streams.contracts.codec import Decoded, decode_ack
from streams.contracts.topics import SERVING_ACKS
from streams.serving.engines.bridge import Bridge
from streams.serving.engines.gguf_lora import GgufBase, read_gguf_base
from streams.serving.engines.install import llamacpp_command
from streams.serving.engines.llama_server import LlamaServer
from streams.serving.engines.llamacpp import LlamaCppEngine
from streams.serving.engines.shapes import checked_pairs
from streams.serving.engines.vllm import VllmEngine
from streams.serving.engines.wire import EngineHttp
from tests.fakes.adapters_on_disk import activation_of, write_adapter
from tests.fakes.bridged_engines import BASE, KEY, FakeLlama, FakeLlamaServer, FakeVllm, activation_of_weights
from tests.fakes.real_vllm import MODEL, REAL_VLLM, real_vllm
from tests.fakes.tiny_gguf import write_tiny_gguf
from tests.fakes.tiny_models import write_tiny_base

LINES = ("000000000001", "000000000002", "000000000003")
REAL_LLAMACPP = "DISCREET_TEST_LLAMACPP"  # where `discreet bridge llamacpp --install-engine` put it
REAL_BASE = "smollm2-135m-instruct"


_measured: dict[bytes, dict] = {}  # on the real base, once for all tests


def kinds():
    """Which engines the suite runs on: the fakes always, the real ones where the environment names them."""
    real = [
        name
        for name, where in (("real-llamacpp", REAL_LLAMACPP), ("real-vllm", REAL_VLLM))
        if os.environ.get(where)
    ]
    return ["vllm", "llamacpp", *real]


class World:
    """One engine, its bridge, and a broker.

    Real engines answer with tiny random weights, llama.cpp with the bundled model where ``gguf`` is its file.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        capacity: int = 4,
        base: Path | None = None,
        gguf: Path | None = None,
    ) -> None:
        self.gguf = gguf
        self.kind, self.folder, self.capacity = kind, folder, capacity
        self.real = kind.startswith("real-")
        self.broker = InMemoryBroker()
        self.now = 0.0
        self.lines = {ref: FakeLine(folder / "store", line_ref=ref) for ref in LINES}
        self.keys = [self.lines[LINES[0]].signer.public_key]
        self.base = base or self._base()
        self.shape = read_shape(self.base)
        self.fake = None
        self.engine = self._engine()
        self.linger, self.untold = 30.0, 300.0
        self.bridge: Bridge | None = None
        self.open_bridge()

    def _base(self):
        if self.kind == "real-vllm":
            return real_vllm().base
        if self.kind == "real-llamacpp" and self.gguf is not None:
            from personalization.training.base.directory import resolve_base

            return resolve_base(REAL_BASE, Path.home() / ".cache" / "discreet" / "models")
        return write_tiny_base(self.folder / "base", hidden=128 if self.real else 32)

    def _engine(self):
        if self.kind == "vllm":
            self.fake = FakeVllm().start()
            http = EngineHttp(self.fake.url, KEY, timeout_seconds=10)
            return VllmEngine(
                http,
                model=BASE,
                capacity=self.capacity,
                precision="float32",
                monotonic=lambda: self.now,
            )
        if self.kind == "real-vllm":
            engine = VllmEngine(real_vllm().http, model=MODEL, capacity=self.capacity, precision="float32")
            for name in engine.held():  # of the test before
                engine.unload(name)
            return engine
        if self.kind == "llamacpp":
            self.fake = FakeLlama()
            base = GgufBase(
                architecture="llama", shape=self.shape, heads=4, key_value_heads=2, precision="float32"
            )
            servers = FakeLlamaServer(self.fake), FakeLlamaServer(FakeLlama())
        else:
            file = self.gguf or write_tiny_gguf(self.base, self.folder / "tiny.gguf")
            command = [
                *llamacpp_command(os.environ[REAL_LLAMACPP]),
                *("-m", str(file), "-c", "2048", "-np", "2", "-t", "1"),
            ]
            base = read_gguf_base(file)
            servers = [
                LlamaServer(command, port=0, key=KEY, log=self.folder / f"{name}.log")
                for name in ("server", "trial")
            ]
        self.servers = servers
        return LlamaCppEngine(
            *servers, base=base, folder=self.folder / "gguf", capacity=self.capacity,
            monotonic=lambda: self.now, sleep=lambda _seconds: setattr(self, "now", self.now + 1),
        )  # fmt: skip

    def open_bridge(self, *, check=True):
        """Begin a bridge anew over the same engine and directory; unchecked it loads whatever an engine takes."""
        if self.bridge is not None:
            self.feed.close()
        checked = checked_pairs if check else (lambda *_, **__: None)
        self.feed = AdapterFeed(self.broker, trusted_keys=self.keys, server_id="b", engine="vllm")
        self.cache = AdapterCache(self.folder / "cache", trusted_keys=self.keys)
        self.bridge = Bridge(
            self.feed,
            self.engine,
            self.cache,
            check=lambda directory: checked(directory, self.shape, most_rank=16),
            linger_seconds=self.linger,
            untold_linger_seconds=self.untold,
            monotonic=lambda: self.now,
        )
        for update in self.feed.snapshot():
            self.bridge.apply(update)

    def version(self, line, number, *, seed=None, files_of=None, proof_of=None, **changes):
        """A signed version: weights by seed, or a directory's; proved by its own measurement or another's."""
        seed = number + 100 * LINES.index(line) if seed is None else seed
        directory = files_of or self.adapter(seed)
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        return self.lines[line].version(
            number,
            files=files,
            evaluation={"verdict": "accepted", "checks": [], "activation": self.proof(proof_of or directory)},
            **changes,
        )

    def adapter(self, seed):
        directory = self.folder / "adapters" / f"seed-{seed}"
        if not directory.exists():
            write_adapter(self.base, directory, seed=seed, scale=0.5 if self.gguf is None else 3.0)
        return directory

    def proof(self, directory):
        weights = (directory / "adapter_model.safetensors").read_bytes()
        if not self.real:
            return activation_of_weights(weights)
        if weights not in _measured:
            _measured[weights] = activation_of(self.base, directory).model_dump(mode="json")
        return _measured[weights]

    def publish(self, line, version):
        self.lines[line].publish(self.broker, version)
        self.catch_up()

    def catch_up(self, steps=3):
        """Hand over what the broker has, then let the bridge work."""
        for update in self.feed.poll(0.05):
            self.bridge.apply(update)
        for _ in range(steps):
            self.bridge.step()
            self.now += 1.5

    def current(self, line):
        return self.bridge.routes.current(line)

    def acks(self):
        if self.feed._acks is not None:
            self.feed._acks.flush()
        decoded = [decode_ack(r.headers, r.value, key=r.key) for r in self.broker.records(SERVING_ACKS.name)]
        assert all(isinstance(ack, Decoded) for ack in decoded)
        return [(ack.data.served_name, ack.data.status.value, ack.data.reason) for ack in decoded]

    def kill_engine(self):
        """End the engine as a crash would; vLLM is started again by whoever runs it, llama.cpp by its bridge."""
        if self.kind == "real-vllm":
            real_vllm().kill()
            real_vllm().start()
        elif self.fake is not None:
            self.fake.kill()
        else:
            self.servers[0]._process.kill()
            self.servers[0]._process.wait()
        if self.kind == "vllm":
            self.fake.start()

    @contextmanager
    def busy(self, name):
        """Have a request answered with an adapter, from here until the end of the block at the earliest."""
        if self.fake is not None:
            self.fake.running = [name]
            yield
            self.fake.running = []
            return
        with real_vllm().busy(name):
            end = time.monotonic() + 60
            while not self.engine.in_flight(name) and time.monotonic() < end:
                time.sleep(0.01)
            yield

    def close(self):
        self.feed.close()
        self.engine.close()
        if self.fake is not None:
            self.fake.kill()
