"""Budgets over HTTP: what a tenant spent, what it can afford, and its privacy statement."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from aiohttp import web

from personalization.registry.queries import audits_of
from privacy.errors import PolicyError
from privacy.ledger.spending import spending_mark
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
            await self._access.read(lambda session: budgets.spend_document(session, tenant_id, now))
        )

    async def _plan(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        parameters = _count(request, "parameters")
        wished, pace = _count(request, "releases"), _count(request, "per_period")
        now = self._access.now()

        def work(session: Session) -> dict[str, Any]:
            rows = budgets.budget_plan(
                session, tenant_id, now=now, parameters=parameters, releases=wished, releases_per_period=pace
            )
            return budgets.plan_document(tenant_id, rows)

        question = ("plan", await self._state(tenant_id), parameters, wished, pace)
        return answer(await self._access.calculations.answer(operator.caller, question, work))

    async def _state(self, tenant_id: str) -> tuple[object, ...]:
        """Return what changes whenever a policy of the tenant or its ledger does."""

        def work(session: Session) -> tuple[object, ...]:
            version = policies.tenant(session, tenant_id).policy
            return tenant_id, version and version.version, spending_mark(session, tenant_id)

        return await self._access.read(work)

    async def _statement(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        reservation_id, now = request.query.get("release"), self._access.now()

        def work(session: Session) -> dict[str, Any]:
            version = policies.tenant(session, tenant_id).policy
            policy = version.policy if version is not None else None
            made = privacy_statement(
                session,
                tenant_id,
                now=now,
                policy=policy,
                reservation_id=reservation_id,
                audits=audits_of(session, tenant_id),
            )
            return {**made.to_document(), "text": made.to_text()}

        question = ("statement", await self._state(tenant_id), reservation_id)
        return answer(await self._access.calculations.answer(operator.caller, question, work))


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
