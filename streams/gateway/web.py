"""The gateway over HTTP.

    POST /v1/chat/completions, /v1/completions   as OpenAI's API has them, streaming too     right: chat
    GET  /v1/models, /v1/models/{name}           what this token may ask                    right: chat
    POST /v1/feedback                            {"id", "outcome", "final_text"?, "rating"?, "user"?}  right: feedback
    GET  /v1/kpis                                serving quality of the tenant's versions       right: users
    GET  /healthz, /readyz                       (no token)
    GET  /metrics                                (the platform operator's token)

The tenant is the token's. No text of a request is logged or counted.
"""

from __future__ import annotations

import hmac
import math
import time
from typing import TYPE_CHECKING, Any

import structlog
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from streams.errors import GatewayError, TooManyRequestsError
from streams.gateway import answers
from streams.gateway.callers import Right
from streams.gateway.feedback import read_feedback
from streams.gateway.leaving import ClientLeftError
from streams.gateway.limits import json_body
from streams.gateway.requests import BASE_SUFFIX, DEFAULT_DOMAIN, Form, unknown_model
from streams.http.logins import FailedLogins
from streams.storage.operator_tokens import token_digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from streams.gateway.answering import Answering
    from streams.gateway.callers import Caller
    from streams.gateway.directory import Directory
    from streams.gateway.feedback import FeedbackDesk
    from streams.gateway.kpis import Kpis
    from streams.telemetry.gateway_metrics import GatewayMetrics

log = structlog.get_logger(__name__)

BODY_SECONDS = 10.0
CLIENT_LEFT = 499  # nobody reads it
SINCE = 1_760_000_000  # when the models of this API were "created"; clients want a number


class GatewayWeb:
    """The routes of one gateway.

    Args:
        answering: answers.
        desk: takes feedback.
        kpis: tell serving quality.
        directory: returns what is known of tokens and lines; ``None`` while nothing can be trusted.
        metrics: counts.
        model: the name under which clients ask.
        ready: whether everything was read that a first request needs, and somebody answers.
        operator_token: the platform operator's; without it nobody reads the metrics.
        most_bytes: of a body.
    """

    def __init__(
        self,
        answering: Answering,
        desk: FeedbackDesk,
        kpis: Kpis,
        *,
        directory: Callable[[], Directory | None],
        metrics: GatewayMetrics,
        model: str,
        ready: Callable[[], bool],
        operator_token: str | None,
        most_bytes: int,
    ) -> None:
        self._answering = answering
        self._desk = desk
        self._kpis = kpis
        self._directory = directory
        self._metrics = metrics
        self._model = model
        self._ready = ready
        self._operator = None if operator_token is None else token_digest(operator_token)
        self._most_bytes = most_bytes
        self._logins = FailedLogins(metrics.failed_login)

    def application(self) -> Starlette:
        """Return the routes as an ASGI application."""
        guarded = self._guarded
        return Starlette(
            routes=[
                Route("/v1/chat/completions", guarded(Right.CHAT, self._chat), methods=["POST"]),
                Route("/v1/completions", guarded(Right.CHAT, self._completions), methods=["POST"]),
                Route("/v1/models", guarded(Right.CHAT, self._models), methods=["GET"]),
                Route("/v1/models/{name:path}", guarded(Right.CHAT, self._one_model), methods=["GET"]),
                Route("/v1/feedback", guarded(Right.FEEDBACK, self._feedback), methods=["POST"]),
                Route("/v1/kpis", guarded(Right.USERS, self._quality), methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/readyz", self._readiness, methods=["GET"]),
                Route("/metrics", self._exposition, methods=["GET"]),
            ],
            exception_handlers={404: _no_such_path, 405: _no_such_path},
        )

    def _guarded(
        self, right: Right, handler: Callable[[Request, Caller, Directory], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Let in who has a token with the right; whatever is refused is told in OpenAI's form."""

        async def guarded(request: Request) -> Response:
            try:
                directory = self._trusted()
                caller = self._caller(request, directory, right)
                return await handler(request, caller, directory)
            except GatewayError as error:
                self._metrics.refused(error.status)
                return answers.error_answer(error, error.headers)
            except ClientLeftError:
                self._metrics.refused(CLIENT_LEFT)
                return Response(status_code=CLIENT_LEFT)
            except Exception as error:  # noqa: BLE001  # a library's own words may hold what somebody wrote
                log.error("request_failed", error=type(error).__name__)  # noqa: TRY400  # as above
                self._metrics.refused(500)
                return answers.error_answer(
                    GatewayError(
                        "something failed that nobody foresaw",
                        status=500,
                        kind="server_error",
                        word="internal",
                    )
                )

        return guarded

    def _trusted(self) -> Directory:
        directory = self._directory()
        if directory is None:
            raise _not_known_yet()
        return directory

    def _caller(self, request: Request, directory: Directory, right: Right) -> Caller:
        digest = self._token(request)
        caller = directory.callers.get(digest)
        if caller is None:
            self._logins.failed(_remote(request), digest)
            raise _no_token()
        self._logins.succeeded(digest)
        if not caller.may(right):
            raise GatewayError(
                f"this token does not allow it; it needs the right {right.value}",
                status=403,
                kind="permission_error",
                word="right_missing",
            )
        return caller

    def _token(self, request: Request) -> bytes:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _no_token()
        digest = token_digest(token)
        try:
            self._logins.check(_remote(request), digest)
        except TooManyRequestsError as error:
            raise GatewayError(
                str(error),
                status=429,
                kind="rate_limit_error",
                word="too_many_wrong_tokens",
                retry_after=math.ceil(error.retry_after),
            ) from None
        return digest

    async def _chat(self, request: Request, caller: Caller, directory: Directory) -> Response:
        return await self._answer(Form.CHAT, request, caller, directory)

    async def _completions(self, request: Request, caller: Caller, directory: Directory) -> Response:
        return await self._answer(Form.COMPLETIONS, request, caller, directory)

    async def _answer(self, form: Form, request: Request, caller: Caller, directory: Directory) -> Response:
        start = time.monotonic()
        body = await json_body(request, most_bytes=self._most_bytes, seconds=BODY_SECONDS)
        response, reason = await self._answering.answer(request, form, body, caller, directory)
        self._metrics.answered(form.value, reason.value, time.monotonic() - start)
        return response

    async def _models(self, _: Request, caller: Caller, directory: Directory) -> Response:
        return answers.json_answer(
            {"object": "list", "data": [_model(name) for name in self._names(caller, directory)]}
        )

    async def _one_model(self, request: Request, caller: Caller, directory: Directory) -> Response:
        name = request.path_params["name"]
        if name not in self._names(caller, directory):
            raise unknown_model()
        return answers.json_answer(_model(name))

    def _names(self, caller: Caller, directory: Directory) -> list[str]:
        domains = sorted(set(directory.lines.get(caller.tenant_id, {})) - {DEFAULT_DOMAIN})
        return [self._model, *(f"{self._model}/{domain}" for domain in domains), self._model + BASE_SUFFIX]

    async def _feedback(self, request: Request, caller: Caller, _: Directory) -> Response:
        body = await json_body(request, most_bytes=self._most_bytes, seconds=BODY_SECONDS)
        feedback = read_feedback(body)
        fate = await self._desk.take(caller, feedback)
        self._metrics.fed_back(feedback.outcome.kind, fate.value)
        return answers.json_answer({"id": feedback.answer_id, "result": fate.value}, status=202)

    async def _quality(self, _: Request, caller: Caller, __: Directory) -> Response:
        return answers.json_answer(self._kpis.document(caller.tenant_id))

    async def _health(self, _: Request) -> Response:
        return answers.json_answer({"status": "alive"})

    async def _readiness(self, _: Request) -> Response:
        ready = self._ready()
        return answers.json_answer(
            {"status": "ready" if ready else "not ready"}, status=200 if ready else 503
        )

    async def _exposition(self, request: Request) -> Response:
        try:
            digest = self._token(request)
            if self._operator is None or not hmac.compare_digest(digest, self._operator):
                self._logins.failed(_remote(request), digest)
                raise _no_token()
        except GatewayError as error:
            return answers.error_answer(error)
        self._logins.succeeded(digest)
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _no_such_path(request: Request, error: Exception) -> Response:  # noqa: ARG001  # as Starlette calls it
    return answers.error_answer(GatewayError("there is no such path", status=404, word="path_unknown"))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": SINCE, "owned_by": "discreet"}


def _remote(request: Request) -> str | None:
    return None if request.client is None else request.client.host


def _no_token() -> GatewayError:
    return GatewayError(
        "a valid token is needed in the header Authorization, after the word Bearer",
        status=401,
        kind="authentication_error",
        word="invalid_api_key",
    )


def _not_known_yet() -> GatewayError:
    return GatewayError(
        "the gateway does not know its tokens now; come again",
        status=503,
        kind="server_error",
        word="not_ready",
        retry_after=1,
    )
