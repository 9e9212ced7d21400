"""Tenants over HTTP: which there are, the policy of one and its history, and its certificates of erasure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from privacy.erasure import erase as erasures
from privacy.errors import PolicyError
from privacy.ledger import populations
from privacy.policy import versions as policies
from streams.errors import AccessDeniedError
from streams.http.answers import answer
from streams.http.tokens import json_object

if TYPE_CHECKING:
    from privacy.policy.ceilings import PolicyCeilings
    from streams.http.tokens import Access


class TenantRoutes:
    """The routes of tenants and their policies."""

    def __init__(self, access: Access, ceilings: PolicyCeilings) -> None:
        self._access = access
        self._ceilings = ceilings

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants", self._tenants)
        router.add_get("/v1/tenants/{tenant}/policy", self._policy)
        router.add_put("/v1/tenants/{tenant}/policy", self._set_policy)
        router.add_get("/v1/tenants/{tenant}/policy/history", self._history)
        router.add_get("/v1/tenants/{tenant}/erasures", self._erasures)

    async def _tenants(self, request: web.Request) -> web.Response:
        operator = await self._access.operator(request)
        tenants = await self._access.read(policies.list_tenants)
        return answer(
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
        _, tenant_id = await self._access.tenant(request)
        tenant = await self._access.read(lambda session: policies.tenant(session, tenant_id))
        if tenant.policy is None:
            return answer({"tenant": tenant_id, "version": None, "policy": None})
        return answer(tenant.policy.to_document())

    async def _set_policy(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        operator.check_writes()
        body = await json_object(request)
        changes, reason = body.get("changes"), body.get("reason")
        if not isinstance(changes, dict) or not isinstance(reason, str):
            raise PolicyError('the body must be {"changes": {field: value}, "reason": "a sentence"}')
        if operator.tenant_id is not None and "population" in changes:
            # It binds other tenants' budgets.
            raise AccessDeniedError("only an operator of the platform may set population; ask one")
        now = self._access.now()
        version = await self._access.transact(
            lambda session: populations.set_policy(
                session,
                tenant_id,
                changes,
                actor=operator.name,
                reason=reason,
                now=now,
                ceilings=self._ceilings,
            )
        )
        return answer(version.to_document())

    async def _history(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)
        versions = await self._access.read(lambda session: policies.policy_history(session, tenant_id))
        return answer({"versions": [version.to_document() for version in versions]})

    async def _erasures(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)
        found = await self._access.read(lambda session: erasures.certificates(session, tenant_id))
        return answer({"certificates": [certificate.to_document() for certificate in found]})
