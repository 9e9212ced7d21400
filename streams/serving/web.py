"""The serving process over HTTP: what it holds, answers, and losses of given texts. Loopback, with a token.

    GET  /healthz                                            200 when the process runs (no token)
    GET  /v1/adapters                                        {"adapters": {line: name}, "failures"}
    POST /v1/answers   {"prompt", "model", "max_new_tokens"} {"text"}, or {"prompts", …}: {"texts"}
    POST /v1/losses    {"pairs": [[prompt, completion]], "model"}   {"losses"}

``model`` is a served name, or ``null`` for the base model. Nothing of a request is logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from streams.serving.holder import Holdings

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1_000_000
MAX_NEW_TOKENS = 256
MAX_PROMPTS = 64  # of one request
LEAVE_SECONDS = 1.0  # for requests in progress at the end


class AnsweringHost(Protocol):
    """What the HTTP side asks of the model side."""

    def answers(self, prompts: Sequence[str], *, name: str | None, max_new_tokens: int) -> list[str]:
        """Return the model's answer to each prompt."""

    def losses(self, pairs: Sequence[tuple[str, str]], *, name: str | None) -> list[float]:
        """Return the mean negative log-likelihood per completion token of each pair."""


class ServingWeb:
    """The HTTP side as a context manager; it listens from entering on, in a thread of its own.

    Args:
        port: where to listen on the loopback; 0 picks a free port.
        token: the bearer token that every request but ``/healthz`` must carry.
        host: the model.
        holdings: what is held, kept up to date by the holder.
    """

    def __init__(self, *, port: int, token: str, host: AnsweringHost, holdings: Holdings) -> None:
        self.port = port
        self._host = host
        self._holdings = holdings
        self._expected = f"Bearer {token}".encode()

    def __enter__(self) -> ServingWeb:
        listening = socket.create_server((LOOPBACK, self.port))
        self.port = int(listening.getsockname()[1])
        self._stop = asyncio.Event()
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = runner.get_loop()
        self._thread = threading.Thread(
            target=self._run, args=(runner, listening), name="serving-web", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, runner: asyncio.Runner, listening: socket.socket) -> None:
        with runner, listening:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        application = web.Application(client_max_size=MAX_BODY_BYTES + 1, middlewares=[self._guarded])
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/v1/adapters", self._adapters)
        application.router.add_post("/v1/answers", self._answer)
        application.router.add_post("/v1/losses", self._losses)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=LEAVE_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, listening).start()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let in who has the token; whatever is refused gets a stable code."""
        given = request.headers.get("Authorization", "").encode()
        if request.path != "/healthz" and not hmac.compare_digest(given, self._expected):
            return _refusal(401, "serving.access.denied")
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, "serving.request.oversized")
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return _refusal(404, "serving.path.unknown")
        except KeyError:
            return _refusal(404, "serving.model.unknown")
        except (TypeError, ValueError):
            return _refusal(400, "serving.request.invalid")

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _adapters(self, _: web.Request) -> web.Response:
        return web.json_response({"adapters": self._holdings.current, "failures": self._holdings.failures})

    async def _answer(self, request: web.Request) -> web.Response:
        body = await _object(request)
        many = "prompts" in body
        prompts = body["prompts"] if many else [body["prompt"]]
        if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
            raise ValueError(f"prompts is a list of 1 to {MAX_PROMPTS} texts")
        texts = await asyncio.to_thread(
            self._host.answers,
            [str(prompt) for prompt in prompts],
            name=body.get("model"),
            max_new_tokens=min(int(body.get("max_new_tokens", 48)), MAX_NEW_TOKENS),
        )
        return web.json_response({"texts": texts} if many else {"text": texts[0]})

    async def _losses(self, request: web.Request) -> web.Response:
        body = await _object(request)
        pairs = [(str(prompt), str(completion)) for prompt, completion in body["pairs"]]
        losses = await asyncio.to_thread(self._host.losses, pairs, name=body.get("model"))
        return web.json_response({"losses": losses})


async def _object(request: web.Request) -> dict[str, Any]:
    body = json.loads(await request.read())
    if not isinstance(body, dict):
        raise TypeError("the body must be a JSON object")
    return body


def _refusal(status: int, code: str) -> web.Response:
    return web.json_response({"error": code}, status=status)
