"""What the gateway asks of an engine, and the engines over HTTP that speak OpenAI's API.

An upstream is told the adapter with every request. It gives back documents as OpenAI's API has them, and raises when
another model answered than was asked: then nothing of the answer has reached anybody.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import orjson

from streams.errors import AdapterGoneError, EngineAwayError, EngineRefusedError
from streams.gateway.requests import Form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

LARGEST_ANSWER = 16 * 2**20  # bytes, of one answer or one piece of a stream
_PATHS = {Form.CHAT: "/v1/chat/completions", Form.COMPLETIONS: "/v1/completions"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to an engine.

    Attributes:
        form: chat or completions.
        document: the body; its model and stream are the upstream's to set.
        adapter: served name; ``None`` for the base model.
        prompt: text of the last message or of the prompt, if it is plain text.
        pattern: regular expression that the answer is to match; empty for none.
        grammar: the same as GBNF.
        favour: names that the answer is to say where it speaks of them; for engines that can.
        tenant: whose request it is; engines that share caches are told apart by a digest of it.
    """

    form: Form
    document: Mapping[str, Any]
    adapter: str | None
    prompt: str | None = None
    pattern: str = ""
    grammar: str = ""
    favour: tuple[str, ...] = ()
    tenant: str = ""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long an engine may take, in seconds."""

    connect: float = 2.0
    first: float = 60.0  # until the first piece of a stream
    between: float = 30.0  # two pieces of it
    whole: float = 300.0  # an answer in one piece


class Upstream(Protocol):
    """One engine.

    Attributes:
        applies_adapters: whether it can; otherwise it is asked with templates alone.
        proves: whether its list of adapters holds verified ones only, so that no other word is needed.
        constraint: name of the form of constraint that it takes; ``None`` for none.
        favours: whether it makes names likelier while it answers.
    """

    applies_adapters: bool
    proves: bool
    constraint: str | None
    favours: bool

    async def held(self) -> frozenset[str]:
        """Return the served names that it holds now.

        Raises:
            EngineAwayError: it does not answer.
        """

    async def whole(self, call: Call) -> dict[str, Any]:
        """Return the answer in one piece.

        Raises:
            EngineAwayError: it did not answer, or not in time.
            EngineRefusedError: it does not take the request.
            AdapterGoneError: it does not hold the adapter.
            WrongAnswererError: another model answered.
        """

    def pieces(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer's pieces, and raise as ``whole`` does, the last two before the first piece."""

    async def close(self) -> None:
        """Give the connections up."""


class OpenAIUpstream:
    """Any server with OpenAI's API; asked for its base model alone.

    Args:
        url: address, without ``/v1``.
        token: sent as bearer token; empty sends none.
        model: name of the base model there.
        timeouts: how long it may take.
        most_connections: at once.
    """

    applies_adapters = False
    proves = False
    constraint: str | None = None
    favours = False

    def __init__(
        self, *, url: str, token: str, model: str, timeouts: Timeouts, most_connections: int = 256
    ) -> None:
        self._url = url.rstrip("/")
        self.model = model
        self._timeouts = timeouts
        self._most_connections = most_connections
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opened: aiohttp.ClientSession | None = None

    async def held(self) -> frozenset[str]:
        """Ask whether it answers; it holds no adapters."""
        await self._get("/v1/models")
        return frozenset()

    async def whole(self, call: Call) -> dict[str, Any]:
        """Return the answer in one piece; see ``Upstream``."""
        body = self.body(call, stream=False)
        async with self._answer(call, body) as answer:
            document = read_document(await read_all(answer))
        await self._check(call, body, document)
        return document

    async def pieces(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer's pieces; see ``Upstream``."""
        checked = False
        body = self.body(call, stream=True)
        async with self._answer(call, body) as answer:
            async for data in events(answer.content, self._timeouts.first, self._timeouts.between):
                if data == b"[DONE]":
                    return
                document = read_document(data)
                if not checked and "error" not in document:
                    await self._check(call, body, document)
                    checked = True
                yield document

    async def close(self) -> None:
        """Give the connections up."""
        if self._opened is not None:
            await self._opened.close()

    def body(self, call: Call, *, stream: bool) -> dict[str, Any]:
        """Return the request's body for this engine."""
        body = {**call.document, "model": self.model, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        else:
            body.pop("stream_options", None)
        return body

    async def _check(self, call: Call, body: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        """Raise ``WrongAnswererError`` when another model answered than was asked; here there is only one."""

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._most_connections, keepalive_timeout=15.0),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
                auto_decompress=True,
                read_bufsize=2**16,
            )
        return self._opened

    async def _get(self, path: str) -> Any:
        try:
            async with (
                asyncio.timeout(self._timeouts.connect * 2),
                self._session.get(self._url + path) as answer,
            ):
                if answer.status != 200:
                    raise EngineAwayError(f"the engine answers {path} with status {answer.status}")
                return _json(await read_all(answer))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineAwayError(f"the engine does not answer ({type(error).__name__})") from None

    @asynccontextmanager
    async def _answer(
        self, call: Call, body: Mapping[str, Any], *, path: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield an answer of status 200; whatever else comes is raised."""
        seconds = self._timeouts.first if body["stream"] else self._timeouts.whole
        request = orjson.dumps(body)
        headers = {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(seconds) as limit:
                async with self._session.post(
                    self._url + (path or _PATHS[call.form]), data=request, headers=headers
                ) as answer:
                    if answer.status != 200:
                        self._refused(answer, await read_all(answer), call)
                    if body["stream"]:
                        limit.reschedule(None)  # from here on each piece has its own
                    yield answer
        except TimeoutError:
            raise EngineAwayError("the engine did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineAwayError(f"the engine broke off ({type(error).__name__})") from None

    def _refused(self, answer: aiohttp.ClientResponse, content: bytes, call: Call) -> None:
        status = answer.status
        if status in (429, 503):
            wait = answer.headers.get("Retry-After", "")
            raise EngineAwayError(
                "the engine has as much to do as it takes",
                retry_after=min(int(wait), 60) if wait.isdecimal() else 1,
            )
        if status >= 500 or status in (401, 403):  # our own token is not the client's fault
            raise EngineAwayError(f"the engine failed with status {status}")
        if status == 404 and call.adapter is not None:
            raise AdapterGoneError("the engine does not hold the adapter")
        text, param = _told(content)
        for name in filter(None, (call.adapter, self.model)):
            text = text.replace(name, "the model")
        raise EngineRefusedError(
            f"the engine refused the request: {text[:500].rstrip('.') or status}",
            status=400 if status == 404 else status,
            param=param,
        )


async def events(content: aiohttp.StreamReader, first: float, between: float) -> AsyncIterator[bytes]:
    """Yield the data of each server-sent event; comments and other fields are left out.

    Raises:
        EngineAwayError: a piece is late, or larger than any may be.
    """
    waiting = b""
    seconds = first
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await content.readany()
        except TimeoutError:
            raise EngineAwayError("the engine fell silent") from None
        if not chunk:
            return
        seconds = between
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(waiting) > LARGEST_ANSWER:
            raise EngineAwayError("a piece of the engine's answer is larger than any may be")


async def read_all(answer: aiohttp.ClientResponse) -> bytes:
    """Return the body of an engine's answer.

    Raises:
        EngineAwayError: it is larger than any may be.
    """
    content = bytearray()
    while chunk := await answer.content.readany():
        content += chunk
        if len(content) > LARGEST_ANSWER:
            raise EngineAwayError("the engine's answer is larger than any may be")
    return bytes(content)


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise EngineAwayError("the engine's answer is no JSON") from None


def read_document(content: bytes) -> dict[str, Any]:
    """Return an engine's answer.

    Raises:
        EngineAwayError: it is no JSON object.
    """
    document = _json(content)
    if not isinstance(document, dict):
        raise EngineAwayError("the engine's answer is no JSON object")
    return document


def _told(content: bytes) -> tuple[str, str | None]:
    """Return what an engine says about a request that it refuses, and the parameter at fault."""
    try:
        document = json.loads(content)
    except ValueError:
        return "", None
    error = document.get("error", document) if isinstance(document, dict) else {}
    if not isinstance(error, dict):
        return "", None
    text, param = error.get("message"), error.get("param")
    return text if isinstance(text, str) else "", param if isinstance(param, str) else None
