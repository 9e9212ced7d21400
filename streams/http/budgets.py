"""Budgets over HTTP: what a tenant spent, what it can afford, and its privacy statement."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aiohttp import web

from privacy.errors import PolicyError
from privacy.policy import versions as policies
from privacy.reports import budgets
from privacy.reports.statement import privacy_statement
from streams.http.answers import answer

if TYPE_CHECKING:
    from sqlmodel import Session

    from streams.http.tokens import Access

COUNT = re.compile("[1-9][0-9]{0,7}")


class BudgetRoutes:
    """The routes of a tenant's privacy budget."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants/{tenant}/budget", self._budget)
        router.add_get("/v1/tenants/{tenant}/budget/plan", self._plan)
        router.add_get("/v1/tenants/{tenant}/statement", self._statement)

    async def _budget(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)
        now = self._access.now()
        return answer(
            await self._access.transact(lambda session: budgets.spend_document(session, tenant_id, now))
        )

    async def _plan(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)
        parameters = _count(request, "parameters")
        wished, pace = _count(request, "releases"), _count(request, "per_period")
        now = self._access.now()
        rows = await self._access.transact(
            lambda session: budgets.budget_plan(
                session, tenant_id, now=now, parameters=parameters, releases=wished, releases_per_period=pace
            )
        )
        return answer(budgets.plan_document(tenant_id, rows))

    async def _statement(self, request: web.Request) -> web.Response:
        _, tenant_id = await self._access.tenant(request)
        reservation_id, now = request.query.get("release"), self._access.now()

        def work(session: Session) -> dict[str, Any]:
            version = policies.tenant(session, tenant_id).policy
            policy = version.policy if version is not None else None
            made = privacy_statement(
                session, tenant_id, now=now, policy=policy, reservation_id=reservation_id
            )
            return {**made.to_document(), "text": made.to_text()}

        return answer(await self._access.transact(work))


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
