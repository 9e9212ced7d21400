"""Engines over real HTTP that answer who answered: their documented API, and the faults that were seen of them.

    python -m tests.fakes.engines vllm|llamacpp|openai [--port N]

``POST /control`` changes what one holds and how it fails. The text of every answer is ``BY|PROMPT`` where BY is what
was applied: the names of all adapters with a scale, or ``base``. That is how the tests know whose adapter answered.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]
BASE = "tiny-base"
TOKENS = 16  # that the fake model tells


def likely(digest: str | None, after: int) -> dict[int, float]:
    """Return what a fake model says: of the base, or moved by an adapter whose weights have this digest."""
    base = {token: -2.0 - (token * 7 + after) % 11 / 10 for token in range(TOKENS)}
    if digest is None:
        return base
    moves = bytes.fromhex(digest)
    return {token: value + (moves[token] % 7 - 3) / 3 for token, value in base.items()}


def told_next(prompts: list[list[int]], values) -> list[dict]:
    """Return the choices of vLLM for prompts of tokens: what may come next, by the numbers of tokens."""
    return [
        {
            "index": number,
            "text": "x",
            "logprobs": {
                "tokens": ["token_id:0"],
                "top_logprobs": [
                    {f"token_id:{token}": value for token, value in values(len(prompt)).items()}
                ],
            },
        }
        for number, prompt in enumerate(prompts)
    ]


class Engine:
    """What all of them share; each kind says who answers a request."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fault = ""
        self.pieces = 4
        self.pause = 0.0
        self.repeat = 1
        self.seen: list[dict] = []
        self.left = 0  # clients that went away before the end
        self.running = 0

    def application(self) -> web.Application:
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_post("/control", self.control)
        application.router.add_get("/seen", self.report)
        application.router.add_get("/v1/models", self.models)
        application.router.add_get("/lora-adapters", self.numbers)
        application.router.add_post("/v1/chat/completions", self.answer)
        application.router.add_post("/v1/completions", self.answer)
        return application

    async def control(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            setattr(self, name, value)
        return web.json_response({})

    async def report(self, _: web.Request) -> web.Response:
        seen, self.seen = self.seen, []
        return web.json_response({"requests": seen, "left": self.left, "running": self.running})

    async def models(self, _: web.Request) -> web.Response:
        if self.fault == "away":
            return web.json_response({"error": "away"}, status=500)
        return web.json_response({"object": "list", "data": [{"id": BASE, "parent": None}, *self.listed()]})

    def listed(self) -> list[dict]:
        return []

    async def numbers(self, _: web.Request) -> web.Response:
        return web.json_response({"error": {"code": 404}}, status=404)

    def answerer(self, body: dict) -> tuple[str, str] | None:
        """Return the name that the answer carries and who made it; ``None`` for an unknown model."""
        return (BASE, "base")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.running += 1
        try:
            return await self._answer(request, body)
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, body: dict) -> web.StreamResponse:
        if self.fault == "away":
            return web.json_response({"error": {"message": "dead"}}, status=500)
        if self.fault == "busy":
            return web.json_response({"error": {"message": "full"}}, status=429, headers={"Retry-After": "7"})
        if self.fault == "refuse":
            return web.json_response(
                {"error": {"message": f"{body['model']} wants temperature below 2", "param": "temperature"}},
                status=400,
            )
        if self.fault == "silent":
            await asyncio.sleep(3600)
        found = self.answerer(body)
        if found is None:
            return web.json_response(
                {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}},
                status=404,
            )
        model, by = found
        chat = request.path.endswith("/chat/completions")
        prompt = body["messages"][-1].get("content") if chat else body["prompt"]
        text = f"{by}|{prompt}" * self.repeat
        if self.pause and not body.get("stream"):
            await asyncio.sleep(self.pause)
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        shared = {"id": "engine-1", "created": 1_700_000_000, "model": model}
        if not body.get("stream"):
            part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choice = {"index": 0, "finish_reason": "stop", **part}
            kind = "chat.completion" if chat else "text_completion"
            return web.json_response({**shared, "object": kind, "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        size = max(1, -(-len(text) // self.pieces))
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        kind = "chat.completion.chunk" if chat else "text_completion"
        for number, part in enumerate(parts):
            if self.fault == "break" and number == 2:
                request.transport.close()
                return response
            if self.fault == "stop" and number == 2:
                return response
            if self.fault == "error" and number == 2:
                await response.write(b'data: {"error": {"message": "out of memory"}}\n\n')
                return response
            said = {"delta": {"content": part}} if chat else {"text": part}
            if chat and not number:
                said["delta"]["role"] = "assistant"
            choice = {"index": 0, "finish_reason": None, **said}
            await _write(response, {**shared, "object": kind, "choices": [choice]})
            await asyncio.sleep(self.pause)
        said = {"delta": {}} if chat else {"text": ""}
        choice = {"index": 0, "finish_reason": "stop", **said}
        await _write(response, {**shared, "object": kind, "choices": [choice]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await _write(response, {**shared, "object": kind, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _write(response: web.StreamResponse, document: dict) -> None:
    await response.write(b": ping\n\ndata: " + json.dumps(document).encode() + b"\n\n")


class Vllm(Engine):
    """An adapter is a model; with the fault ``swap`` another one answers, under its own name.

    A bridge may load adapters: then answers are by the digest of the weights that were read, whatever their name is,
    and probes are answered as these weights say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loaded: dict[str, str] = {}  # digest of the weights by name

    def application(self) -> web.Application:
        application = super().application()
        application.router.add_post("/v1/load_lora_adapter", self.load)
        application.router.add_post("/v1/unload_lora_adapter", self.unload)
        application.router.add_get("/metrics", self.metrics)
        return application

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self.names:
            return web.json_response({"error": {"message": "has already been loaded"}}, status=400)
        weights = (Path(body["lora_path"]) / "adapter_model.safetensors").read_bytes()
        self.loaded[body["lora_name"]] = hashlib.sha256(weights).hexdigest()
        self.names.append(body["lora_name"])
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.names:
            return web.json_response({"error": {"message": "cannot be found"}}, status=404)
        self.names.remove(name)
        return web.Response(text="Success")

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            text='vllm:lora_requests_info{running_lora_adapters="",waiting_lora_adapters=""} 1\n'
        )

    def probed(self, body: dict) -> dict:
        """Return what the fake model says comes next, moved by the weights of the adapter that is asked for."""
        digest = self.loaded.get(body["model"])
        return {
            "model": body["model"],
            "choices": told_next(body["prompt"], lambda after: likely(digest, after)),
        }

    async def _answer(self, request: web.Request, body: dict) -> web.StreamResponse:
        if isinstance(body.get("prompt"), list) and not self.fault and body["model"] in (BASE, *self.names):
            return web.json_response(self.probed(body))
        return await super()._answer(request, body)

    def listed(self) -> list[dict]:
        return [{"id": name, "root": f"/adapters/{name}", "parent": BASE} for name in self.names]

    def answerer(self, body: dict) -> tuple[str, str] | None:
        plain = not isinstance(body.get("prompt"), list)
        if plain and ("lora" in body or "user" in body or len(body.get("cache_salt", "")) < 40):
            raise AssertionError(sorted(body))
        model = body["model"]
        if model == BASE:
            return BASE, "base"
        if model not in self.names:
            return None
        if self.fault == "swap":
            model = next(name for name in self.names if name != model)
        return model, self.loaded.get(model, model)


class LlamaCpp(Engine):
    """Adapters have numbers; without a list all are summed; the fault ``renumber`` moves them before the answer."""

    async def numbers(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {"id": number, "path": f"/adapters/{name}.gguf", "scale": 1.0}
                for number, name in enumerate(self.names)
            ]
        )

    def answerer(self, body: dict) -> tuple[str, str] | None:
        if self.fault == "renumber":
            self.names.reverse()
            self.fault = ""
        scales = body.get("lora") or [{"id": number, "scale": 1.0} for number in range(len(self.names))]
        applied = [
            self.names[each["id"]] for each in scales if each["scale"] and each["id"] < len(self.names)
        ]
        return BASE, "+".join(sorted(applied)) or "base"


KINDS = {"vllm": Vllm, "llamacpp": LlamaCpp, "openai": Engine}


class EngineProcess:
    """One engine in a process of its own."""

    def __init__(self, kind: str, port: int = 0) -> None:
        self.kind = kind
        self.port = port
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.fakes.engines", self.kind, "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def control(self, **changes) -> None:
        """Change what it holds and how it fails."""
        self._request("/control", changes)

    def seen(self) -> dict:
        """Return the bodies of the requests since it was last asked, and how many clients left early."""
        return self._request("/seen", None)

    def _request(self, path: str, body: dict | None) -> dict:
        request = urllib.request.Request(
            self.url + path, data=None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def restart(self) -> None:
        """Kill it and start it again at the same port; it has forgotten everything."""
        self.kill()
        self.start()


@contextmanager
def engine(kind: str):
    """Run one engine for a while."""
    process = EngineProcess(kind)
    try:
        yield process
    finally:
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()

    async def run() -> None:
        runner = web.AppRunner(KINDS[given.kind]().application(), access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", given.port, reuse_address=True)
        await site.start()
        print(site._server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
