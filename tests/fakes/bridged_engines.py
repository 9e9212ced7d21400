"""Engines over real HTTP that imitate what vLLM and llama.cpp document, and each fault that was seen of them.

What an adapter changes is a function of its weights' bytes, so only an engine that holds the right ones answers what
the manifest says. Faults are switched on by name; see ``FAULTS``.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf

from streams.errors import EngineLoadError
from streams.serving.engines.gguf_lora import WEIGHTS_DIGEST
from streams.serving.engines.wire import EngineHttp
from tests.fakes.adapters_on_disk import acts
from tests.fakes.engines import BASE, likely, told_next

KEY = "engine-key"
LAYERS = 3  # of the tiny base
PLACES = 2  # of adapters in a batch; the fault "crossing" takes the base for the last of them
BATCH_SECONDS = 0.05  # that come together in one batch where batches matter
FAULTS = (
    "idle",  # takes adapters and answers as the base (layer 99, lm_head)
    "wrong",  # answers with another adapter than the one that was asked for
    "500",  # refuses every load with its own words
    "silent",  # listens and does not answer
    "forgetful",  # says that it loaded and does not list the name
    "mute",  # tells no log-probabilities
    "renamed",  # answers under another model's name
    "crossing",  # right by itself; for the base, in one batch with an adapter's request, whoever has the last place
    "mixing",  # answers for the base with an adapter, as vLLM on a CPU does in one batch with an adapter's request
)


class FakeEngine:
    """Common parts: a server that can be killed and started again on its port, adapters in memory, faults."""

    def __init__(self) -> None:
        self.adapters: dict[str, Path] = {}
        self.digests: dict[str, str | None] = {}  # of the weights of each adapter that changes anything
        self.faults: set[str] = set()
        self.running: list[str] = []  # requests that use an adapter now
        self.asked: list[tuple[str, Any]] = []
        self.deaths: list[str] = []
        self.starts = 0
        self._batch: list[tuple[str | None, set[str | None]]] = []  # who runs, and beside whom
        self._batching = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        engine = self
        self.starts += 1

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self._do(None)

            def do_POST(self):
                self._do(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null"))

            def _do(self, body):
                if "silent" in engine.faults:
                    self.close_connection = True
                    return
                engine.asked.append((self.path, body))
                keyed = self.headers.get("Authorization") == f"Bearer {KEY}"
                status, answer = engine.answer(self.path, body, keyed)
                if status is None:
                    self.close_connection = True
                    return
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def kill(self):
        """Stop answering and forget everything, as a process that ended."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.adapters.clear()

    def _acting(self, name):
        """Return whose weights answer a request, after all that come at the same time have come."""
        if "crossing" not in self.faults:
            return name
        mine = (name, set(self.running))
        with self._batching:
            for other, beside in self._batch:
                beside.add(name)
                mine[1].add(other)
            self._batch.append(mine)
        time.sleep(BATCH_SECONDS)
        with self._batching:
            self._batch = [one for one in self._batch if one is not mine]
        crossed = name is None and mine[1] - {None} and len(self.adapters) >= PLACES
        return list(self.adapters)[PLACES - 1] if crossed else name

    def _values(self, name, after):
        """Log-probabilities of the likeliest next tokens, of the base or of an adapter, as its weights say."""
        if name is None and "mixing" in self.faults and self.adapters:
            name = list(self.adapters)[-1]
        digest = None if name is None or "idle" in self.faults else self.digests[name]
        if digest is not None and "wrong" in self.faults:
            digest = hashlib.sha256(digest.encode()).hexdigest()
        return likely(digest, after)


def activation_of_weights(weights: bytes) -> dict[str, Any]:
    """What the trainer's child would have measured of an adapter on the fake model."""
    digest = hashlib.sha256(weights).hexdigest()
    points, moved = [], []
    for after in (2, 3):
        base, adapter = likely(None, after), likely(digest, after)
        tokens = list(base)[:8]
        points.append(
            {
                "after": after,
                "tokens": tokens,
                "base": [round(base[token], 5) for token in tokens],
                "adapter": [round(adapter[token], 5) for token in tokens],
            }
        )
        moved += [abs(adapter[token] - base[token]) for token in tokens]
    return {
        "precision": "float32",
        "effect": round(sum(moved) / len(moved), 5),
        "tolerances": {"float32": 0.01, "float16": 0.05, "bfloat16": 0.2, "quantized": 0.3},
        "probes": [{"prompt": "Why?", "completion": "Be", "tokens": [1, 2, 3], "points": points}],
    }


class FakeVllm(FakeEngine):
    """vLLM 0.32: names and paths; 400 for a name twice; a request whose directory is gone ends the server."""

    def answer(self, path, body, keyed):
        if path == "/metrics":
            names = ",".join(
                self.running
            )  # what runs is listed among what waits as well; old samples stay for ever
            form = 'vllm:lora_requests_info{{running_lora_adapters="{0}",waiting_lora_adapters="{0}"}} {1}\n'
            began = f"process_start_time_seconds {1.79596e09 + self.starts}\n"
            return 200, began + form.format("old", 1.7959618298528035e09) + form.format(
                names, 1.795961830123558e09
            )
        if not keyed:
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            names = [] if "forgetful" in self.faults else list(self.adapters)
            data = [{"id": BASE, "root": "/models/base", "parent": None}]
            return 200, {
                "data": data + [{"id": n, "root": str(self.adapters[n]), "parent": BASE} for n in names]
            }
        if path == "/v1/load_lora_adapter":
            name, directory = body["lora_name"], Path(body["lora_path"])
            if body.get("load_inplace"):
                raise AssertionError("nothing is ever loaded in place")
            if "500" in self.faults:
                return 500, {"error": {"message": "Call to add_lora method failed", "code": 500}}
            if not (directory / "adapter_config.json").is_file():
                return 404, {"error": {"message": f"No adapter found for {directory}", "code": 404}}
            if name in self.adapters:
                return 400, {"error": {"message": "has already been loaded", "code": 400}}
            self.adapters[name] = directory
            weights = (directory / "adapter_model.safetensors").read_bytes()
            self.digests[name] = hashlib.sha256(weights).hexdigest() if acts(weights, LAYERS) else None
            return 200, f"Success: LoRA adapter '{name}' added successfully."
        if path == "/v1/unload_lora_adapter":
            if self.adapters.pop(body["lora_name"], None) is None:
                return 404, {"error": {"message": "cannot be found", "code": 404}}
            return 200, "Success"
        if path in {"/v1/completions", "/v1/chat/completions"}:
            return self._complete(body)
        return 404, {"error": "Not Found"}

    def _complete(self, body):
        name = None if body["model"] == BASE else body["model"]
        if name is not None and name not in self.adapters:
            return 404, {"error": {"message": "The model does not exist", "code": 404}}
        if name is not None and not (self.adapters[name] / "adapter_model.safetensors").is_file():
            self.deaths.append(name)  # LoRAAdapterNotFoundError in the worker: the whole server is gone
            threading.Thread(target=self.kill).start()
            return None, None
        model = "someone-else" if "renamed" in self.faults else body["model"]
        if "messages" in body:
            text = f"{name}: {body['messages'][-1]['content']}"
            return 200, {"model": model, "choices": [{"message": {"role": "assistant", "content": text}}]}
        if isinstance(body["prompt"], str):
            return 200, {"model": model, "choices": [{"text": f"{name}: {body['prompt']}"}]}
        if "prompt_logprobs" in body and self.running:
            self.deaths.append(
                "prompt_logprobs beside an adapter's request"
            )  # its batch does not fit: the worker ends
            threading.Thread(target=self.kill).start()
            return None, None
        acting = self._acting(name)
        choices = told_next(body["prompt"], lambda after: self._values(acting, after))
        if "mute" in self.faults:
            choices = [{**choice, "logprobs": None} for choice in choices]
        return 200, {"model": model, "choices": choices}


class FakeLlama(FakeEngine):
    """llama.cpp: files of the start with numbers; all scales are 1 unless the start says 0; ``model`` is ignored."""

    def __init__(self):
        super().__init__()
        self.scales: dict[str, float] = {}

    def answer(self, path, body, keyed):
        if path == "/health":
            return 200, {"status": "ok"}
        if not keyed:
            return 401, {"error": {"message": "Invalid API Key"}}
        names = sorted(self.adapters)
        if path == "/lora-adapters":
            listed = [] if "forgetful" in self.faults else names
            return 200, [
                {"id": n, "path": str(self.adapters[one]), "scale": self.scales[one]}
                for n, one in enumerate(listed)
            ]
        if path == "/slots":
            return 200, [
                {"id": 0, "is_processing": True, "params": {"lora": [{"id": names.index(one), "scale": 1.0}]}}
                for one in self.running
                if one in names
            ]
        if path in {"/completion", "/v1/chat/completions"}:
            return self._complete(body, names)
        return 404, {"error": {"message": "File Not Found"}}

    def _complete(self, body, names):
        if not body.get("lora"):  # the global scales count, and nothing says so
            active = [one for one in names if self.scales[one]]
        else:
            active = [names[one["id"]] for one in body["lora"] if one["scale"] and one["id"] < len(names)]
        name = active[0] if len(active) == 1 else ("sum" if active else None)
        if isinstance(body.get("prompt"), list):
            values = self._values(name, len(body["prompt"]))
            top = [{"id": token, "logprob": value} for token, value in values.items()]
            document: dict[str, Any] = {"content": "x", "completion_probabilities": [{"top_logprobs": top}]}
            if "mute" in self.faults:
                del document["completion_probabilities"]
            return 200, document
        if "messages" in body:
            text = f"{name}: {body['messages'][-1]['content']}"
            return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "model": BASE}
        return 200, {"content": f"{name}: {body.get('prompt')}", "model": BASE}


class FakeLlamaServer:
    """Stands in for ``LlamaServer``: the same verbs over a ``FakeLlama``, which reads the files of its start."""

    def __init__(self, engine: FakeLlama) -> None:
        self.engine = engine
        self.starts: list[list[str]] = []
        self.http = EngineHttp("http://127.0.0.1:1", KEY)

    @property
    def runs(self) -> bool:
        return self.engine._server is not None

    def start(self, adapters):
        self.stop()
        self.starts.append(sorted(adapters))
        for name, path in sorted(adapters.items()):
            if "500" in self.engine.faults or path.read_bytes()[:4] != b"GGUF":
                raise EngineLoadError("llama.cpp ended at its start with status 1")
            reader = gguf.GGUFReader(path)
            changes = any(tensor.data.any() for tensor in reader.tensors if tensor.name.endswith("lora_b"))
            self.engine.digests[name] = str(reader.fields[WEIGHTS_DIGEST].contents()) if changes else None
            self.engine.adapters[name] = path
            self.engine.scales[name] = 0.0
        self.engine.start()
        self.http = EngineHttp(self.engine.url, KEY, timeout_seconds=10)

    def stop(self):
        self.engine.kill()
        self.engine.scales.clear()
