"""Choices among prompt templates over HTTP: ask users' answers to choose, and see what was chosen.

A tenant's tokens reach that tenant alone. Asking is audited under the token's name and reads nothing private: a trainer
reserves the budget, takes the votes and draws (``personalization.choices.protocol``). How long votes take depends on
users' texts, so the tenant's own see how a choice ended from its public instant on.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from personalization.choices.asking import MOST, ask
from personalization.choices.rows import choices_of, facts_of, facts_shown
from personalization.errors import PromptChoiceError
from personalization.registry.announcements import Act
from privacy.policy import versions as policies
from privacy.storage.session import server_now
from streams.errors import AccessDeniedError, MalformedRequestError
from streams.http.answers import answer
from streams.http.tokens import json_object
from streams.storage.operator_tokens import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aiohttp import web
    from sqlmodel import Session

    from privacy.policy.ceilings import PolicyCeilings
    from streams.http.tokens import Access, Operator

MOST_LISTED: Final = 1_000
LISTED: Final = 20
LARGEST_NUMBER: Final = 100
_FIELDS: Final = frozenset({"candidates", "reason", "epsilon", "percent", "domain"})
_LIMIT: Final = re.compile("[1-9][0-9]{0,3}")


class ChoiceRoutes:
    """The routes of choices among a tenant's prompt templates.

    Args:
        access: who may ask.
        ceilings: what the platform allows a policy at most.
        keys: returns raw public keys that templates may be signed with; empty where this worker knows none.
    """

    def __init__(
        self, access: Access, ceilings: PolicyCeilings, keys: Callable[[], Collection[bytes]]
    ) -> None:
        self._access = access
        self._ceilings = ceilings
        self._keys = keys

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants/{tenant}/prompts/choices", self._choices)
        router.add_post("/v1/tenants/{tenant}/prompts:choose", self._choose)

    async def _choices(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        if operator.role is Role.SERVER:
            raise AccessDeniedError("a token of the role server reads no choices; ask for one of a reader")
        domain, limit = request.query.get("domain", "default"), _limit(request)

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            # By the clock that dated the choice: one of ours that is fast would show it too soon.
            now = server_now(session) or self._access.now()
            shown_at = None if operator.tenant_id is None else now
            return [
                {"domain": domain, **(facts_of(row) if shown_at is None else facts_shown(row, shown_at))}
                for row in choices_of(session, tenant_id, domain, limit=limit)
            ]

        return answer({"tenant": tenant_id, "prompt_choices": await self._access.read(work)})

    async def _choose(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        operator.check_writes()
        body = _checked(await json_object(request))
        made = await self._access.transact(lambda session: self._ask(session, operator, tenant_id, body))
        return answer({"tenant": tenant_id, "prompt_choice": made}, status=201)

    def _ask(
        self, session: Session, operator: Operator, tenant_id: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        policies.tenant(session, tenant_id)
        keys = self._keys()
        if not keys:
            raise PromptChoiceError(
                "this worker knows no key that templates are signed with; set DISCREET_SERVING__PUBLIC_KEYS, or ask "
                "with `discreet prompts choose`"
            )
        domain = body.get("domain", "default")
        now = server_now(session) or self._access.now()  # it says which period pays
        row, forecast = ask(
            session,
            tenant_id,
            domain,
            body["candidates"],
            Act(actor=operator.name, reason=body["reason"], now=now),
            epsilon=float(body.get("epsilon", 0.5)),
            percent=float(body.get("percent", 10.0)),
            keys=keys,
            ceilings=self._ceilings,
            outlooks=False,
        )
        told = dataclasses.asdict(forecast)
        return {
            "domain": domain,
            **facts_of(row),
            **{name: told[name] for name in ("users_needed", "declared_users", "epsilon_at_delta")},
        }


def _limit(request: web.Request) -> int:
    given = request.query.get("limit", str(LISTED))
    if not _LIMIT.fullmatch(given) or int(given) > MOST_LISTED:
        raise MalformedRequestError(
            f"limit is {given[:20]!r}; allowed is a whole number from 1 to {MOST_LISTED:,}"
        )
    return int(given)


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked for as it was sent, its fields of the right kinds.

    Raises:
        MalformedRequestError: one is not, or is unknown.
    """
    names = body.get("candidates")
    numbers = [body[name] for name in ("epsilon", "percent") if name in body]
    if not (
        isinstance(names, list)
        and len(names) <= MOST
        and all(isinstance(name, str) for name in names)
        and isinstance(body.get("reason"), str)
        and isinstance(body.get("domain", ""), str)
        and all(type(number) in {int, float} and 0 <= number <= LARGEST_NUMBER for number in numbers)
        and set(body) <= _FIELDS
    ):
        raise MalformedRequestError(
            f'the body must be {{"candidates": ["v1", "v2"], "reason": "a sentence"}}, with at most {MOST} candidates; '
            f"it may hold epsilon and percent (numbers up to {LARGEST_NUMBER}) and domain (a text)"
        )
    return body
