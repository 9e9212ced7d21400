"""Adapters over HTTP: every version of a tenant, with its state and cost, how rollouts stand, guards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from personalization.errors import RolloutError
from personalization.registry import queries as registry
from personalization.registry.facts import rollout_facts, version_facts
from personalization.registry.steering import measure
from personalization.rollouts.evidence import Reading
from privacy.policy import versions as policies
from streams.http.answers import answer
from streams.http.tokens import json_object

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

    from streams.http.tokens import Access, Operator


class AdapterRoutes:
    """The routes of a tenant's adapter versions."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants/{tenant}/adapters", self._adapters)
        router.add_get("/v1/tenants/{tenant}/rollouts", self._rollouts)
        router.add_post("/v1/tenants/{tenant}/guards", self._measure)

    async def _adapters(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        now = self._access.now()

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            rows = registry.list_versions(session, tenant_id=tenant_id)
            # A version is registered when its training has ended, and shown from its slot's instant on.
            shown = [row for row in rows if operator.tenant_id is None or row.published_at <= now]
            return [version_facts(row, shown_at=_of_tenant(operator, now)) for row in shown]

        return answer({"tenant": tenant_id, "adapters": await self._access.read(work)})

    async def _rollouts(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        shown_at = _of_tenant(operator, self._access.now())

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            return rollout_facts(session, tenant_id, shown_at=shown_at)

        return answer({"tenant": tenant_id, "rollouts": await self._access.read(work)})

    async def _measure(self, request: web.Request) -> web.Response:
        """Take the newest value of one guard metric of a version, from whoever watches its servers.

        Never with a tenant administrator's token: a product that knows its users' reactions could pass them off as
        errors, and they must not move a rollout uncharged.
        """
        operator, tenant_id = await self._access.tenant(request)
        operator.check_measures()
        body = await json_object(request)
        served_name, name, value = body.get("served_name"), body.get("name"), body.get("value")
        if (
            not isinstance(served_name, str)
            or not isinstance(name, str)
            or isinstance(value, bool)
            or not isinstance(value, int | float)
            or set(body) != {"served_name", "name", "value"}
        ):
            raise RolloutError(
                'the body must be {"served_name": a version, "name": a guard, "value": a number}; send one reading'
            )
        reading = Reading(name=name, value=float(value), at=self._access.now())
        await self._access.transact(
            lambda session: measure(session, tenant_id, served_name, reading, actor=operator.name)
        )
        return answer({"status": "kept"})


def _of_tenant(operator: Operator, now: datetime) -> datetime | None:
    """Return until when a tenant's own may see slots; ``None`` for the platform operator, who sees the database."""
    return None if operator.tenant_id is None else now
