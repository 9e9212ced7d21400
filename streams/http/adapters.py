"""Adapters over HTTP: every version of a tenant, with its state and cost, and how rollouts stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from personalization.registry import queries as registry
from personalization.registry.facts import rollout_facts, version_facts
from privacy.policy import versions as policies
from streams.http.answers import answer

if TYPE_CHECKING:
    from sqlmodel import Session

    from streams.http.tokens import Access


class AdapterRoutes:
    """The routes of a tenant's adapter versions."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants/{tenant}/adapters", self._adapters)
        router.add_get("/v1/tenants/{tenant}/rollouts", self._rollouts)

    async def _adapters(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        now = self._access.now()

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            rows = registry.list_versions(session, tenant_id=tenant_id)
            # A version is registered when its training has ended, and shown from its slot's instant on.
            shown = [row for row in rows if operator.tenant_id is None or row.published_at <= now]
            return [version_facts(row) for row in shown]

        return answer({"tenant": tenant_id, "adapters": await self._access.read(work)})

    async def _rollouts(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            return rollout_facts(session, tenant_id)

        return answer({"tenant": tenant_id, "rollouts": await self._access.read(work)})
