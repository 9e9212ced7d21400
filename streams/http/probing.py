"""Liveness and metrics of a process that has no operator API, such as a trainer, in a thread of their own.

``/healthz`` answers everybody, ``/metrics`` whoever has the platform operator's token, and nobody where there is none.
"""

from __future__ import annotations

import hmac
import socket
from typing import TYPE_CHECKING, Protocol, Self

from aiohttp import web

from streams.errors import TooManyRequestsError
from streams.http.answers import answer
from streams.http.listening import ListeningThread
from streams.http.logins import FailedLogins
from streams.storage.operator_tokens import token_digest

if TYPE_CHECKING:
    from collections.abc import Callable

LEAVE_SECONDS = 1.0


class Alive(Protocol):
    """What the probe asks."""

    @property
    def alive(self) -> bool:
        """Whether the process gets anywhere."""


class ProbeServer:
    """The listening side, as a context manager.

    Args:
        host: address to listen on.
        port: port; 0 picks a free one.
        probe: liveness.
        exposition: returns the metrics in Prometheus' text format.
        token: the platform operator's.
    """

    def __init__(
        self, *, host: str, port: int, probe: Alive, exposition: Callable[[], bytes], token: str | None
    ) -> None:
        self._host = host
        self.port = port
        self._probe = probe
        self._exposition = exposition
        self._expected = None if token is None else token_digest(token)
        self._logins = FailedLogins()

    def __enter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/metrics", self._metrics)
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, self.port), family=family)
        self.port = int(listening.getsockname()[1])
        self._listener = ListeningThread(
            application, listening, name="discreet-probe", leave_seconds=LEAVE_SECONDS
        )
        self._listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.__exit__()

    async def _health(self, _: web.Request) -> web.Response:
        alive = self._probe.alive
        return answer({"status": "alive" if alive else "stalled"}, status=200 if alive else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise web.HTTPUnauthorized(reason="the platform operator's token is needed")
        digest = token_digest(token)
        try:
            self._logins.check(request.remote, digest)
        except TooManyRequestsError as error:
            raise web.HTTPTooManyRequests(headers={"Retry-After": str(error.retry_after)}) from None
        if self._expected is None or not hmac.compare_digest(digest, self._expected):
            self._logins.failed(request.remote, digest)
            raise web.HTTPUnauthorized(reason="the platform operator's token is needed")
        self._logins.succeeded(digest)
        return web.Response(
            body=self._exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )
