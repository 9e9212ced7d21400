"""The bridge over HTTP, on the loopback and with a token: what is routed where, metrics, what is wanted.

Paths: ``GET /healthz`` (no token; 503 with a code while the engine is not safe to be shared), ``GET /v1/adapters``
(``adapters``: line to name, ``verified``, ``failures``, ``unsafe``: that code or null),
``GET /metrics`` for Prometheus, and ``POST /v1/wanted`` with ``names`` that were asked for, so that the places of an
engine go to who uses them. With ``shares``, one for each name, places are shared among those on whose behalf names are
asked for: gateways give a pseudonym of the tenant.
"""

from __future__ import annotations

import hmac
import socket
from typing import TYPE_CHECKING, TypeGuard

from aiohttp import web

from streams.errors import MalformedRequestError
from streams.http.bodies import json_body
from streams.http.listening import ListeningThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streams.serving.engines.metrics import BridgeMetrics
    from streams.serving.engines.routes import Routes

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 100_000
MAX_NAMES = 1_000
MAX_SHARE_LENGTH = 64


class BridgeWeb:
    """The HTTP side as a context manager.

    Args:
        port: where to listen on the loopback; 0 picks a free port.
        token: the bearer token that every request but ``/healthz`` must carry.
        routes: what the bridge knows.
        metrics: what it counts.
    """

    def __init__(self, *, port: int, token: str, routes: Routes, metrics: BridgeMetrics) -> None:
        self.port = port
        self._expected = f"Bearer {token}".encode()
        self._routes = routes
        self._metrics = metrics

    def __enter__(self) -> BridgeWeb:
        listening = socket.create_server((LOOPBACK, self.port))
        self.port = int(listening.getsockname()[1])
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guarded])
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/v1/adapters", self._adapters)
        application.router.add_get("/metrics", self._exposition)
        application.router.add_post("/v1/wanted", self._wanted)
        self._listener = ListeningThread(application, listening, name="bridge-web")
        self._listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.__exit__()

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path != "/healthz" and not hmac.compare_digest(given, self._expected):
            return web.json_response({"error": "serving.access.denied"}, status=401)
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.json_response({"error": "serving.request.refused"}, status=error.status)
        except MalformedRequestError:
            return web.json_response({"error": "serving.request.invalid"}, status=400)

    async def _health(self, _: web.Request) -> web.Response:
        unsafe = self._routes.unsafe
        if unsafe is not None:
            return web.json_response({"status": "unsafe", "error": unsafe}, status=503)
        return web.json_response({"status": "ok"})

    async def _adapters(self, _: web.Request) -> web.Response:
        return web.json_response(self._routes.document())

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), content_type="text/plain")

    async def _wanted(self, request: web.Request) -> web.Response:
        body = await json_body(request)
        names: object = body.get("names") if isinstance(body, dict) else None
        if not _texts(names) or len(names) > MAX_NAMES:
            raise MalformedRequestError(f"names must be a list of at most {MAX_NAMES} texts")
        shares: object = body.get("shares", [""] * len(names))
        if (
            not _texts(shares)
            or len(shares) != len(names)
            or max(map(len, shares), default=0) > MAX_SHARE_LENGTH
        ):
            raise MalformedRequestError(
                f"shares must be left out, or one text of at most {MAX_SHARE_LENGTH} characters for each name"
            )
        self._routes.want(dict(zip(names, shares, strict=True)))
        return web.json_response({"noted": len(names)})


def _texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
