"""Who asks over HTTP, for whom a token allows it, and the tokens themselves.

The platform operator's token comes from the settings and reaches every tenant. Every other token is 32 random bytes of
which the database holds the SHA-256 only (``streams.storage.operator_tokens``): it reaches the platform, or one tenant
and then whatever else is asked for looks as if it did not exist; it reads, administers its tenant or operates, as its
role says; and it ends. Every change is audited under the name that belongs to the token.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from privacy.errors import PolicyError, UnknownTenantError
from privacy.storage.session import reading, transaction
from streams.errors import AccessDeniedError, MalformedRequestError, TooManyRequestsError
from streams.http.answers import answer
from streams.http.bodies import json_body
from streams.http.calculations import Calculations
from streams.http.limits import RateLimit
from streams.http.logins import FailedLogins
from streams.storage.operator_tokens import (
    DEFAULT_DAYS,
    Role,
    holder_of,
    is_token,
    list_tokens,
    new_token,
    revoke_tokens,
    token_digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from streams.http.calculations import CalculationLimits

PLATFORM = "platform operator"
THREADS = 2  # for the database; ingest has others
BURST, PER_SECOND = 60, 20.0  # requests of one tenant's administrators
Result = TypeVar("Result")


@dataclass(frozen=True)
class Operator:
    """Who asks: for one tenant, or for the platform (``tenant_id`` is ``None``); and what the token allows."""

    name: str
    tenant_id: str | None = None
    role: Role = Role.OPERATOR

    @property
    def caller(self) -> str:
        """For whom limits hold: a tenant's administrators together, or the platform operator."""
        return PLATFORM if self.tenant_id is None else f"tenant {self.tenant_id}"

    def check(self, tenant_id: str) -> None:
        """Refuse any tenant but one's own, in the words used for a tenant that does not exist.

        Raises:
            UnknownTenantError: the tenant is another one.
        """
        if self.tenant_id not in (None, tenant_id):
            raise UnknownTenantError(f"tenant {tenant_id[:80]!r} is not registered")

    def check_writes(self) -> None:
        """Refuse to change anything with a token that only reads.

        Raises:
            AccessDeniedError: it does, or it only tells of servers.
        """
        if self.role in {Role.READER, Role.SERVER}:
            raise AccessDeniedError("this token does not change anything; ask for one of an administrator")

    def check_measures(self) -> None:
        """Refuse readings of guards from anybody but the platform operator and who watches servers for it.

        Raises:
            AccessDeniedError: the token is neither.
        """
        if self.role not in {Role.SERVER, Role.OPERATOR}:
            raise AccessDeniedError(
                "readings of guards are taken with a token of the role server, which the platform operator makes"
            )


class Access:
    """The door of the operator API: who asks, what that allows, and the transaction in which it is answered.

    Args:
        engine: the database.
        platform_token: the platform operator's token; ``None`` leaves that door shut.
        clock: aware UTC.
        limits: how much is calculated for whom.
        on_failed_login: told ``refused`` or ``limited`` of each (metrics).
    """

    def __init__(
        self,
        engine: Engine,
        platform_token: str | None,
        clock: Callable[[], datetime],
        *,
        limits: CalculationLimits | None = None,
        on_failed_login: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._platform_token = platform_token
        self.now = clock
        self._logins = FailedLogins(on_failed_login)
        self._requests = RateLimit(burst=BURST, per_second=PER_SECOND)
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="discreet-http")
        self.calculations = Calculations(engine, limits)

    def close(self) -> None:
        """Give the threads up; call it when nothing is answered any more."""
        self.calculations.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def operator(self, request: web.Request) -> Operator:
        """Return who asks.

        Raises:
            web.HTTPUnauthorized: there is no valid token.
            TooManyRequestsError: too many wrong ones came from that address, or too many requests of that tenant.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            digest = token_digest(token)
            self._logins.check(request.remote, digest)
            operator = await self._owner(token, digest)
            if operator is not None:
                self._logins.succeeded(digest)
                if operator.tenant_id is not None and (wait := self._requests.take(operator.caller)):
                    raise TooManyRequestsError("too many requests; wait", retry_after=math.ceil(wait))
                return operator
            self._logins.failed(request.remote, digest)
        raise web.HTTPUnauthorized(reason="a valid token is needed: Authorization: Bearer ...")

    async def _owner(self, token: str, digest: bytes) -> Operator | None:
        expected = self._platform_token
        if expected is not None and hmac.compare_digest(digest, token_digest(expected)):
            return Operator(PLATFORM)
        if not is_token(token):
            return None
        now = self.now()
        known = await self.read(lambda session: holder_of(session, token, now))
        return None if known is None else Operator(known.name, known.tenant_id, known.role)

    async def platform(self, request: web.Request) -> Operator:
        """Return who asks, for the platform as a whole: an operator or a reader of it.

        Raises:
            AccessDeniedError: the token is a tenant's.
            web.HTTPUnauthorized: there is no valid token.
        """
        operator = await self.operator(request)
        if operator.tenant_id is not None:
            raise AccessDeniedError(
                "this needs the platform operator's token; a tenant's token does not allow it"
            )
        return operator

    async def tenant(self, request: web.Request) -> tuple[Operator, str]:
        """Return who asks and the tenant that the path names; ask ``check_writes`` too where something changes.

        Raises:
            UnknownTenantError: the token is another tenant's.
            web.HTTPUnauthorized: there is no valid token.
        """
        operator = await self.operator(request)
        tenant_id = request.match_info["tenant"]
        operator.check(tenant_id)
        return operator, tenant_id

    async def transact(self, work: Callable[[Session], Result]) -> Result:
        """Return what ``work`` returns, done in one transaction, in a thread."""

        def run() -> Result:
            with transaction(self._engine) as session:
                return work(session)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """Return what ``work`` returns, which only reads, so that it waits for no writer; in a thread."""

        def run() -> Result:
            with reading(self._engine) as session:
                return work(session)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)


class TokenRoutes:
    """Make and revoke tokens of one tenant, for the platform operator; list them, for the tenant too."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants/{tenant}/tokens", self._list)
        router.add_post("/v1/tenants/{tenant}/tokens", self._make)
        router.add_delete("/v1/tenants/{tenant}/tokens/{name}", self._revoke)

    async def _list(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)
        now = self._access.now()
        found = await self._access.read(
            lambda session: list_tokens(session, tenant_id=tenant_id, good_at=now)
        )
        return answer({"tenant": tenant_id, "tokens": [facts.to_document() for facts in found]})

    async def _make(self, request: web.Request) -> web.Response:
        operator = await self._access.platform(request)
        operator.check_writes()
        tenant_id = request.match_info["tenant"]
        body = await json_object(request)
        name, role, days = (
            body.get("name"),
            body.get("role", Role.ADMINISTRATOR),
            body.get("days", DEFAULT_DAYS),
        )
        if not isinstance(name, str) or role not in list(Role) or type(days) is not int:
            raise PolicyError(
                'the body must be {"name": "who uses the token"}, and may hold role (reader, administrator or '
                "server) and days (a whole number)"
            )
        now = self._access.now()
        token, facts = await self._access.transact(
            lambda session: new_token(
                session, tenant_id, name, role=Role(role), days=days, actor=operator.name, now=now
            )
        )
        return answer({**facts.to_document(), "token": token}, status=201)

    async def _revoke(self, request: web.Request) -> web.Response:
        operator = await self._access.platform(request)
        operator.check_writes()
        tenant_id, name = request.match_info["tenant"], request.match_info["name"]
        now = self._access.now()
        revoked = await self._access.transact(
            lambda session: revoke_tokens(session, tenant_id, name, actor=operator.name, now=now)
        )
        return answer({"revoked": revoked})


async def json_object(request: web.Request) -> dict[str, Any]:
    """Return the body of a request.

    Raises:
        MalformedRequestError: it is no JSON object.
    """
    body = await json_body(request)
    if not isinstance(body, dict):
        raise MalformedRequestError("the body must be a JSON object")
    return body
