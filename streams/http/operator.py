"""The operator API: tenants, policies, budgets and certificates as JSON, for whom a token allows.

The platform operator's token comes from the settings and reaches every tenant. A tenant administrator's
token is 32 random bytes of which the database holds the SHA-256 only; it reaches that tenant, and whatever
else is asked for looks as if it did not exist. Every change is audited under the name that belongs to the
token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from sqlmodel import col, select, update

from personalization.planner import ALIGNMENT, SMALLEST_SIGNAL
from personalization.services.facts import version_facts
from personalization.storage import registry
from privacy.errors import PolicyError, UnknownTenantError
from privacy.forecast import DEFAULT_PARAMETERS, SignalRule
from privacy.services import audit_trail, budgets, erasures, policies
from privacy.statement import privacy_statement
from privacy.storage.session import transaction
from streams.errors import AccessDeniedError
from streams.storage.tables import OperatorTokenRow

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

TOKEN_BYTES = 32
PLATFORM = "platform operator"
COUNT = re.compile("[1-9][0-9]{0,7}")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Operator:
    """Who asks: the platform operator (``tenant_id`` is ``None``) or an administrator of one tenant."""

    name: str
    tenant_id: str | None = None

    def check(self, tenant_id: str) -> None:
        """Refuse any tenant but one's own, in the words used for a tenant that does not exist.

        Raises:
            UnknownTenantError: the tenant is another one.
        """
        if self.tenant_id not in (None, tenant_id):
            raise UnknownTenantError(f"tenant {tenant_id[:80]!r} is not registered")


def new_token(session: Session, tenant_id: str, name: str, *, actor: str, now: datetime) -> str:
    """Make a token for an administrator of ``tenant_id`` and return it; it is shown this once.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: the name is empty or too long.
    """
    policies.tenant(session, tenant_id)
    if not 0 < len(name.strip()) <= 200:
        raise PolicyError(f"name has {len(name)} characters; allowed are 1 to 200, naming who uses the token")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    session.add(
        OperatorTokenRow(
            token_digest=_digest(token),
            tenant_id=tenant_id,
            name=name.strip(),
            created_at=now,
            created_by=actor,
        )
    )
    audit_trail.append(
        session, tenant_id, actor=actor, action="token.created", detail={"name": name.strip()}, now=now
    )
    return token


def revoke_tokens(session: Session, tenant_id: str, name: str, *, actor: str, now: datetime) -> int:
    """Revoke every token of that name in the tenant and return how many there were."""
    statement = (
        update(OperatorTokenRow)
        .where(
            col(OperatorTokenRow.tenant_id) == tenant_id,
            col(OperatorTokenRow.name) == name,
            col(OperatorTokenRow.revoked_at).is_(None),
        )
        .values(revoked_at=now)
    )
    revoked = int(session.connection().execute(statement).rowcount)
    if revoked:
        audit_trail.append(
            session, tenant_id, actor=actor, action="token.revoked", detail={"name": name}, now=now
        )
    return revoked


def operator_of(session: Session, token: str) -> Operator | None:
    """Return whose tenant token this is."""
    row = session.exec(
        select(OperatorTokenRow).where(
            OperatorTokenRow.token_digest == _digest(token), col(OperatorTokenRow.revoked_at).is_(None)
        )
    ).one_or_none()
    return None if row is None else Operator(name=row.name, tenant_id=row.tenant_id)


class OperatorApi:
    """The routes under ``/v1``.

    Args:
        engine: the database.
        platform_token: the platform operator's token; ``None`` leaves that door shut.
        clock: aware UTC.
    """

    def __init__(self, engine: Engine, platform_token: str | None, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._platform_token = platform_token
        self._clock = clock

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants", self._tenants)
        router.add_get("/v1/tenants/{tenant}/policy", self._policy)
        router.add_put("/v1/tenants/{tenant}/policy", self._set_policy)
        router.add_get("/v1/tenants/{tenant}/policy/history", self._history)
        router.add_get("/v1/tenants/{tenant}/budget", self._budget)
        router.add_get("/v1/tenants/{tenant}/budget/plan", self._plan)
        router.add_get("/v1/tenants/{tenant}/statement", self._statement)
        router.add_get("/v1/tenants/{tenant}/adapters", self._adapters)
        router.add_get("/v1/tenants/{tenant}/erasures", self._erasures)
        router.add_post("/v1/tenants/{tenant}/tokens", self._new_token)
        router.add_delete("/v1/tenants/{tenant}/tokens/{name}", self._revoke)

    async def require_platform(self, request: web.Request) -> Operator:
        """Return the platform operator.

        Raises:
            AccessDeniedError: the token is a tenant's.
            web.HTTPUnauthorized: there is no valid token.
        """
        operator = await self._operator(request)
        if operator.tenant_id is not None:
            raise AccessDeniedError(
                "this needs the platform operator's token; a tenant's token does not allow it"
            )
        return operator

    async def _operator(self, request: web.Request) -> Operator:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            expected = self._platform_token
            if expected is not None and hmac.compare_digest(_digest(token), _digest(expected)):
                return Operator(PLATFORM)
            known = await self._run(lambda session: operator_of(session, token))
            if known is not None:
                return known
        raise web.HTTPUnauthorized(reason="a valid token is needed: Authorization: Bearer ...")

    async def _allowed(self, request: web.Request) -> tuple[Operator, str]:
        operator = await self._operator(request)
        tenant_id = request.match_info["tenant"]
        operator.check(tenant_id)
        return operator, tenant_id

    async def _run(self, work: Callable[[Session], Result]) -> Result:
        def transact() -> Result:
            with transaction(self._engine) as session:
                return work(session)

        return await asyncio.to_thread(transact)

    async def _tenants(self, request: web.Request) -> web.Response:
        operator = await self._operator(request)
        tenants = await self._run(policies.list_tenants)
        return web.json_response(
            {
                "tenants": [
                    {
                        "tenant": tenant.tenant_id,
                        "registered_at": tenant.registered_at.isoformat(),
                        "policy_version": None if tenant.policy is None else tenant.policy.version,
                    }
                    for tenant in tenants
                    if operator.tenant_id in (None, tenant.tenant_id)
                ]
            }
        )

    async def _policy(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)
        tenant = await self._run(lambda session: policies.tenant(session, tenant_id))
        if tenant.policy is None:
            return web.json_response({"tenant": tenant_id, "version": None, "policy": None})
        return web.json_response(tenant.policy.to_document())

    async def _set_policy(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._allowed(request)
        body = await _object(request)
        changes, reason = body.get("changes"), body.get("reason")
        if not isinstance(changes, dict) or not isinstance(reason, str):
            raise PolicyError('the body must be {"changes": {field: value}, "reason": "a sentence"}')
        version = await self._run(
            lambda session: policies.set_policy(
                session, tenant_id, changes, actor=operator.name, reason=reason, now=self._clock()
            )
        )
        return web.json_response(version.to_document())

    async def _history(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)
        versions = await self._run(lambda session: policies.policy_history(session, tenant_id))
        return web.json_response({"versions": [version.to_document() for version in versions]})

    async def _budget(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)
        now = self._clock()
        return web.json_response(
            await self._run(lambda session: budgets.spend_document(session, tenant_id, now))
        )

    async def _plan(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)
        rule = SignalRule(
            parameters=_count(request, "parameters") or DEFAULT_PARAMETERS,
            alignment=ALIGNMENT,
            smallest=SMALLEST_SIGNAL,
        )
        wished, pace = _count(request, "releases"), _count(request, "per_period")
        now = self._clock()
        rows = await self._run(
            lambda session: budgets.budget_plan(
                session, tenant_id, rule=rule, now=now, releases=wished, releases_per_period=pace
            )
        )
        return web.json_response(budgets.plan_document(tenant_id, rows))

    async def _statement(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)
        reservation_id, now = request.query.get("release"), self._clock()

        def work(session: Session) -> dict[str, Any]:
            version = policies.tenant(session, tenant_id).policy
            policy = version.policy if version is not None else None
            made = privacy_statement(
                session, tenant_id, now=now, policy=policy, reservation_id=reservation_id
            )
            return {**made.to_document(), "text": made.to_text()}

        return web.json_response(await self._run(work))

    async def _adapters(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            return [version_facts(row) for row in registry.list_versions(session, tenant_id=tenant_id)]

        return web.json_response({"tenant": tenant_id, "adapters": await self._run(work)})

    async def _erasures(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._allowed(request)
        found = await self._run(lambda session: erasures.certificates(session, tenant_id))
        return web.json_response({"certificates": [certificate.to_document() for certificate in found]})

    async def _new_token(self, request: web.Request) -> web.Response:
        operator = await self.require_platform(request)
        tenant_id = request.match_info["tenant"]
        name = (await _object(request)).get("name")
        if not isinstance(name, str):
            raise PolicyError('the body must be {"name": "who uses the token"}')
        token = await self._run(
            lambda session: new_token(session, tenant_id, name, actor=operator.name, now=self._clock())
        )
        return web.json_response({"tenant": tenant_id, "name": name.strip(), "token": token}, status=201)

    async def _revoke(self, request: web.Request) -> web.Response:
        operator = await self.require_platform(request)
        tenant_id, name = request.match_info["tenant"], request.match_info["name"]
        revoked = await self._run(
            lambda session: revoke_tokens(session, tenant_id, name, actor=operator.name, now=self._clock())
        )
        return web.json_response({"revoked": revoked})


def _count(request: web.Request, name: str) -> int | None:
    """Return a whole number of at least 1 from the query; None where it is left out.

    Raises:
        PolicyError: it is something else.
    """
    value = request.query.get(name)
    if value is None:
        return None
    if not COUNT.fullmatch(value):
        raise PolicyError(f"{name} is {value[:20]!r}; allowed is a whole number from 1 to 99,999,999")
    return int(value)


async def _object(request: web.Request) -> dict[str, Any]:
    body = await request.json()
    if not isinstance(body, dict):
        raise PolicyError("the body must be a JSON object")
    return body


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
