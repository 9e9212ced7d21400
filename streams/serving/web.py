"""The serving process over HTTP: what it holds, answers, and losses of given texts. Loopback, with a token.

    GET  /healthz                                            200 when the process runs (no token)
    GET  /v1/adapters                                        {"adapters": {line: name}, "failures"}
    POST /v1/answers   {"prompt", "model", "max_new_tokens"} {"text"}, or {"prompts", …}: {"texts"}
    POST /v1/losses    {"pairs": [[prompt, completion]], "model"}   {"losses"}

``model`` is a served name, or ``null`` for the base model. Answers take ``favour``, a list of names that become
likelier while they are made (``personalization.training.engine.favoured``), and ``template``, the name of a line: its
prompt template is put around the prompts, and the answer's ``template`` names the version, ``null`` where the line has
none. A token reaches all lines, or those that it is for: others do not exist for it. Nothing of a request is logged.
Connections, headers, bodies, threads and what waits for the model are bounded; who comes beyond that is told when to
come again (429).
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiohttp import web

from personalization.adapters.decoding import MOST_FAVOURED
from streams.errors import MalformedRequestError, TooManyRequestsError
from streams.http.bodies import json_body
from streams.http.listening import HEADER_SECONDS, MOST_CONNECTIONS, ListeningThread
from streams.serving.tokens import Scope, ServerTokens, server_tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from streams.serving.holder import Holdings

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1_000_000
MAX_NEW_TOKENS = 256
MAX_PROMPTS = 64  # of one request
MAX_PAIRS = 2_000
LONGEST_FAVOURED = 80  # characters of one name
THREADS = 2  # the model answers one request at a time; another is got ready meanwhile
MAX_WAITING = 16
LEAVE_SECONDS = 1.0  # for requests in progress at the end
_CODES = {404: "serving.path.unknown", 408: "serving.request.late", 413: "serving.request.oversized"}
NOTHING = Scope(frozenset())
Result = TypeVar("Result")


class AnsweringHost(Protocol):
    """What the HTTP side asks of the model side."""

    def answers(
        self, prompts: Sequence[str], *, name: str | None, max_new_tokens: int, favour: Sequence[str] = ()
    ) -> list[str]:
        """Return the model's answer to each prompt; names in ``favour`` become likelier."""

    def losses(self, pairs: Sequence[tuple[str, str]], *, name: str | None) -> list[float]:
        """Return the mean negative log-likelihood per completion token of each pair."""


class ServingWeb:
    """The HTTP side as a context manager; it listens from entering on, in a thread of its own.

    Args:
        port: where to listen on the loopback; 0 picks a free port.
        token: the bearer token that every request but ``/healthz`` must carry, or several with what each reaches.
        host: the model.
        holdings: what is held, kept up to date by the holder.
        header_seconds: time for a request's header.
        most_connections: bound on open connections.
    """

    def __init__(
        self,
        *,
        port: int,
        token: str | ServerTokens,
        host: AnsweringHost,
        holdings: Holdings,
        header_seconds: float = HEADER_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self.port = port
        self._header_seconds = header_seconds
        self._most_connections = most_connections
        self._waiting = 0
        self._host = host
        self._holdings = holdings
        self._tokens = server_tokens(token, None) if isinstance(token, str) else token

    def __enter__(self) -> ServingWeb:
        listening = socket.create_server((LOOPBACK, self.port))
        self.port = int(listening.getsockname()[1])
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="serving-model")
        self._listener = ListeningThread(
            self._application(),
            listening,
            name="serving-web",
            header_seconds=self._header_seconds,
            most_connections=self._most_connections,
            leave_seconds=LEAVE_SECONDS,
        )
        self._listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.__exit__()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES + 1, middlewares=[self._guarded])
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/v1/adapters", self._adapters)
        application.router.add_post("/v1/answers", self._answer)
        application.router.add_post("/v1/losses", self._losses)
        return application

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let in who has the token; whatever is refused gets a stable code."""
        if request.path != "/healthz" and self._scope(request) is None:
            return _refusal(401, "serving.access.denied")
        try:
            return await handler(request)
        except web.HTTPException as error:
            status = 404 if error.status == 405 else error.status
            return _refusal(status, _CODES.get(status, "serving.request.refused"))
        except TooManyRequestsError as error:
            return _refusal(429, "serving.busy", {"Retry-After": str(error.retry_after)})
        except MalformedRequestError:
            return _refusal(400, "serving.request.invalid")

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _adapters(self, request: web.Request) -> web.Response:
        scope = self._scope(request) or NOTHING
        current = {line: name for line, name in self._holdings.current.items() if scope.reaches(line)}
        # A version that failed is of no line here; who reaches all lines is told.
        failures = self._holdings.failures if scope.lines is None else {}
        return web.json_response({"adapters": current, "failures": failures})

    def _scope(self, request: web.Request) -> Scope | None:
        return self._tokens.scope_of(request.headers.get("Authorization", ""))

    def _reaches(self, request: web.Request, name: str | None) -> bool:
        scope = self._scope(request) or NOTHING
        return name is None or scope.reaches(self._holdings.lines.get(name))

    async def _answer(self, request: web.Request) -> web.Response:
        body = await _object(request)
        many = "prompts" in body
        prompts, name = _prompts(body["prompts"] if many else [body.get("prompt")]), _name(body)
        tokens = body.get("max_new_tokens", 48)
        if type(tokens) is not int or tokens < 1:
            raise MalformedRequestError("max_new_tokens must be a whole number of at least 1")
        line = None if body.get("template") is None else _text(body["template"])
        scope = self._scope(request) or NOTHING
        if not self._reaches(request, name) or (line is not None and not scope.reaches(line)):
            return _unknown_model()
        template = None if line is None else self._holdings.templates.get(line)
        if template is not None:
            prompts = [template.render(prompt) for prompt in prompts]
        favour = _favoured(body.get("favour"))
        texts = await self._in_turn(
            lambda: self._host.answers(
                prompts, name=name, max_new_tokens=min(tokens, MAX_NEW_TOKENS), favour=favour
            )
        )
        if texts is None:
            return _unknown_model()
        told: dict[str, Any] = {"texts": texts} if many else {"text": texts[0]}
        if line is not None:
            told["template"] = None if template is None else template.name
        return web.json_response(told)

    async def _losses(self, request: web.Request) -> web.Response:
        body = await _object(request)
        pairs, name = _pairs(body.get("pairs")), _name(body)
        if not self._reaches(request, name):
            return _unknown_model()
        losses = await self._in_turn(lambda: self._host.losses(pairs, name=name))
        return _unknown_model() if losses is None else web.json_response({"losses": losses})

    async def _in_turn(self, ask: Callable[[], Result]) -> Result | None:
        """Return what the model says, once it is this request's turn; ``None`` when it holds no such adapter.

        Raises:
            TooManyRequestsError: too many wait already.
        """
        if self._waiting >= MAX_WAITING:
            raise TooManyRequestsError("too many requests wait for the model")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except KeyError:
            return None
        finally:
            self._waiting -= 1


async def _object(request: web.Request) -> dict[str, Any]:
    body = await json_body(request)
    if not isinstance(body, dict):
        raise MalformedRequestError("the body must be a JSON object")
    return body


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedRequestError("a prompt and a completion must be text")
    return value


def _name(body: Mapping[str, Any]) -> str | None:
    name = body.get("model")
    return None if name is None else _text(name)


def _prompts(value: object) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_PROMPTS:
        raise MalformedRequestError(f"prompts must be a list of 1 to {MAX_PROMPTS} texts")
    return [_text(prompt) for prompt in value]


def _favoured(value: object) -> list[str]:
    names = [] if value is None else value
    if not isinstance(names, list) or len(names) > MOST_FAVOURED:
        raise MalformedRequestError(f"favour must be a list of at most {MOST_FAVOURED} names")
    if any(not isinstance(one, str) or not 0 < len(one) <= LONGEST_FAVOURED for one in names):
        raise MalformedRequestError(f"a favoured name must be text of 1 to {LONGEST_FAVOURED} characters")
    return names


def _pairs(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list) or len(value) > MAX_PAIRS:
        raise MalformedRequestError(f"pairs must be a list of at most {MAX_PAIRS}")
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise MalformedRequestError("a pair must be [prompt, completion]")
    return [(_text(prompt), _text(completion)) for prompt, completion in value]


def _unknown_model() -> web.Response:
    return _refusal(404, "serving.model.unknown")


def _refusal(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": code}, status=status, headers=headers)
