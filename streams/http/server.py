"""The worker's HTTP side: probes, metrics and the operator API; on the loopback by default."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from personalization.errors import (
    MemoryDocumentError,
    MemoryNotFoundError,
    PersonalizationError,
    PromptNotFoundError,
)
from privacy.errors import PolicyError, PrivacyError, StorageError, UnknownTenantError
from streams.errors import AccessDeniedError, MalformedRequestError, StreamsError, TooManyRequestsError
from streams.http.adapters import AdapterRoutes
from streams.http.answers import answer
from streams.http.bodies import require_text
from streams.http.budgets import BudgetRoutes
from streams.http.choices import ChoiceRoutes
from streams.http.listening import HEADER_SECONDS, BoundedListener
from streams.http.memory import MemoryRoutes
from streams.http.tenants import TenantRoutes
from streams.http.tokens import TokenRoutes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from privacy.policy.ceilings import PolicyCeilings
    from streams.http.memory import MemoryAccess
    from streams.http.tokens import Access

MAX_REQUEST_BYTES = 65_536


class Probes(Protocol):
    """What the probes ask."""

    @property
    def alive(self) -> bool:
        """Whether the worker gets anywhere."""

    @property
    def ready(self) -> bool:
        """Whether it has nearly caught up."""


class HttpServer:
    """The listening side, as an async context manager.

    Args:
        host: address to listen on.
        port: port; 0 picks a free one.
        probes: liveness and readiness.
        exposition: returns the metrics in Prometheus' text format.
        access: who may use the operator API (``/v1``) and read the metrics; closed at the end.
        header_seconds: time for a request's header.
        ceilings: what the platform allows a tenant's policy at most.
        memory: opens tenants' documents; ``None``: there are no routes for them.
        signed_by: returns raw public keys that prompt templates may be signed with.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        probes: Probes,
        exposition: Callable[[], bytes],
        access: Access,
        ceilings: PolicyCeilings,
        header_seconds: float = HEADER_SECONDS,
        memory: MemoryAccess | None = None,
        signed_by: Callable[[], Collection[bytes]] = tuple,
    ) -> None:
        self._host = host
        self._port = port
        self._probes = probes
        self._exposition = exposition
        self._access = access
        application = web.Application(
            client_max_size=MAX_REQUEST_BYTES, middlewares=[_errors_as_json, _text_only]
        )
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._readiness)
        application.router.add_get("/metrics", self._metrics)
        TenantRoutes(access, ceilings).add_to(application.router)
        ChoiceRoutes(access, ceilings, signed_by).add_to(application.router)
        for routes in (BudgetRoutes, AdapterRoutes, TokenRoutes):
            routes(access).add_to(application.router)
        if memory is not None:
            MemoryRoutes(access, memory).add_to(application.router)
        self._application = application
        self._header_seconds = header_seconds

    @property
    def port(self) -> int:
        """Port that is listened on."""
        return self._port

    async def __aenter__(self) -> HttpServer:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, self._port), family=family)
        self._port = int(listening.getsockname()[1])
        self._listener = BoundedListener(self._application, listening, header_seconds=self._header_seconds)
        await self._listener.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.__aexit__()
        self._access.close()

    async def _health(self, _: web.Request) -> web.Response:
        return _probe(self._probes.alive, "alive", "stalled")

    async def _readiness(self, _: web.Request) -> web.Response:
        return _probe(self._probes.ready, "ready", "not ready")

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._access.platform(request)
        return web.Response(
            body=self._exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _probe(fine: bool, yes: str, no: str) -> web.Response:
    return answer({"status": yes if fine else no}, status=200 if fine else 503)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refusal(error.status, "http.refused", error.reason)
    except TooManyRequestsError as error:
        return _refusal(429, error.code, str(error), {"Retry-After": str(error.retry_after)})
    except (PrivacyError, StreamsError, PersonalizationError) as error:
        return _refusal(_status(error), error.code, str(error))


@web.middleware
async def _text_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let no address through that names what no database keeps."""
    require_text((*request.match_info.values(), *request.query, *request.query.values()))
    return await handler(request)


def _status(error: Exception) -> int:
    match error:
        case UnknownTenantError() | MemoryNotFoundError() | PromptNotFoundError():
            return 404
        case AccessDeniedError():
            return 403
        case MalformedRequestError():
            return 400
        case PolicyError() | MemoryDocumentError():
            return 422
        case StorageError():
            return 503
        case _:
            return 409


def _refusal(status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body: dict[str, Any] = {"error": {"code": code, "text": text}}
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return answer(body, status=status, headers=headers)
