"""Documents over HTTP: approve, list, remove and look up what a tenant's questions are answered from.

A tenant's tokens reach that tenant alone. Each approval and removal is in the tenant's audit trail under the token's
name. Cutting and embedding a text, opening every row of a list, and overwriting what was deleted take a while: one
thing of a tenant at a time, a few of all.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from personalization.errors import MemoryDocumentError
from personalization.memory import queries
from personalization.memory.documents import Place, prepared
from personalization.memory.scrubbing import scrub, scrubbed
from personalization.memory.values import DEFAULT_COLLECTION, Draft
from personalization.registry import remembering
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from streams.errors import AccessDeniedError, TooManyRequestsError
from streams.http.answers import answer
from streams.http.tokens import json_object
from streams.storage.operator_tokens import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aiohttp import web
    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.memory.documents import Added, Prepared
    from personalization.memory.embedding import Embedder
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.search import MemorySearch
    from personalization.registry.announcements import AdapterEvents
    from streams.http.tokens import Access, Operator

MOST_AT_ONCE: Final = 4  # of all tenants
MOST_FOUND: Final = 20
_TEXTS: Final = ("id", "text", "title", "source", "collection", "domain", "valid_until", "reason")


@dataclass(frozen=True, kw_only=True)
class MemoryAccess:
    """What the routes need beside the database; each part is made when it is first asked for.

    Attributes:
        engine: whose files are overwritten where texts are deleted or given up.
        keys: seal, open and sign documents.
        embedder: turns texts into vectors, if there is one.
        search: looks up.
        events: where changes are told.
    """

    engine: Engine
    events: AdapterEvents
    keys: Callable[[], MemoryKeys]
    embedder: Callable[[], Embedder | None]
    search: Callable[[], MemorySearch]


class MemoryRoutes:
    """The routes of a tenant's documents."""

    def __init__(self, access: Access, memory: MemoryAccess) -> None:
        self._access = access
        self._memory = memory
        self._working: set[str] = set()
        self._owed: dict[
            tuple[str, str, str], object
        ] = {}  # documents whose approval left files to overwrite

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/v1/tenants/{tenant}/documents", self._list)
        router.add_post("/v1/tenants/{tenant}/documents", self._approve)
        router.add_delete("/v1/tenants/{tenant}/documents/{document:.+}", self._remove)
        router.add_post("/v1/tenants/{tenant}/documents:search", self._search)

    async def _list(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        _require_reads(operator)
        collection = request.query.get("collection")

        def work(session: Session) -> list[dict[str, Any]]:
            policies.tenant(session, tenant_id)
            keys = self._memory.keys()
            return [
                queries.facts_of(row, queries.opened(row, keys))
                for row in queries.listed(session, tenant_id, collection)
            ]

        with self._turn(operator):
            found = await self._access.read(work)
        return answer({"tenant": tenant_id, "documents": found})

    async def _approve(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        operator.check_writes()
        body = _checked(await json_object(request))
        draft = Draft(
            document_id=body.get("id", ""),
            title=body.get("title", ""),
            text=body.get("text", ""),
            source=body.get("source", ""),
            valid_until=_instant(body.get("valid_until")),
            accept_marked=body.get("accept_marked", False),
        )
        place = self._place(
            operator,
            tenant_id,
            body.get("collection", DEFAULT_COLLECTION),
            domain=body.get("domain"),
            reason=body.get("reason", ""),
        )
        await self._access.read(lambda session: policies.tenant(session, tenant_id))
        with self._turn(operator):
            cut = await asyncio.to_thread(lambda: prepared([draft], self._memory.embedder()))
            one = await asyncio.to_thread(self._added, place, cut)
        told = {
            "id": one.document_id,
            "version": one.version,
            "fate": one.fate.value,
            "passages": one.chunks,
            "marked": one.marked,
            "marked_accepted": one.sent,
            "same_as": one.same_as,
        }
        return answer({"tenant": tenant_id, "collection": place.collection, "documents": [told]}, status=201)

    async def _remove(self, request: web.Request) -> web.Response:
        operator, tenant_id = await self._access.tenant(request)
        operator.check_writes()
        place = self._place(
            operator,
            tenant_id,
            request.query.get("collection", DEFAULT_COLLECTION),
            reason=request.query.get("reason", ""),
        )
        with self._turn(operator):
            gone = await asyncio.to_thread(self._removed, place, request.match_info["document"])
        removed = [{"id": one.document_id, "version": one.version} for one in gone]
        return answer({"tenant": tenant_id, "collection": place.collection, "removed": removed})

    async def _search(self, request: web.Request) -> web.Response:
        """Look a question up as the gateway does; in a body, since addresses stand in logs of proxies."""
        operator, tenant_id = await self._access.tenant(request)
        _require_reads(operator)
        body = await json_object(request)
        question, domain, most = body.get("question"), body.get("domain", "default"), body.get("most", 3)
        if (
            not isinstance(question, str)
            or not isinstance(domain, str)
            or type(most) is not int
            or not 1 <= most <= MOST_FOUND
        ):
            raise MemoryDocumentError(
                'the body must be {"question": "..."}, and may hold domain (a text) and most (1 to '
                f"{MOST_FOUND} passages)"
            )
        await self._access.read(lambda session: policies.tenant(session, tenant_id))
        now = self._access.now()
        with self._turn(operator):
            found = await asyncio.to_thread(
                lambda: self._memory.search().find(tenant_id, domain, question, now, most=most)
            )
        return answer({"tenant": tenant_id, "found": found.to_document()})

    def _added(self, place: Place, cut: Sequence[Prepared]) -> Added:
        """Approve one document, and overwrite in the files what that gave up, or what it owes since it was approved.

        Raises:
            StorageError: the database cannot be reached, or it refused to overwrite; the same again finishes it.
        """
        with transaction(self._memory.engine) as session:
            (one,) = remembering.add(session, self._memory.events, self._memory.keys(), place, cut)
        name = (place.tenant_id, place.collection, one.document_id)
        if one.gave_up:
            self._owed[name] = object()
        owed = self._owed.get(name)
        if one.gave_up or owed is not None:
            scrub(self._memory.engine)
            if self._owed.get(name) is owed:  # what another approval owes by now was not paid by this
                self._owed.pop(name, None)
        return one

    def _removed(self, place: Place, document_id: str) -> list[Added]:
        with scrubbed(self._memory.engine) as session:
            return remembering.remove(session, self._memory.events, self._memory.keys(), place, [document_id])

    def _place(
        self, operator: Operator, tenant_id: str, collection: str, *, domain: str | None = None, reason: str
    ) -> Place:
        return Place(
            tenant_id=tenant_id,
            collection=collection,
            actor=operator.name,
            now=self._access.now(),
            domain=domain,
            reason=reason,
        )

    @contextmanager
    def _turn(self, operator: Operator) -> Iterator[None]:
        if operator.caller in self._working or len(self._working) >= MOST_AT_ONCE:
            raise TooManyRequestsError("other documents are worked on; send one at a time and come again")
        self._working.add(operator.caller)
        try:
            yield
        finally:
            self._working.discard(operator.caller)


def _require_reads(operator: Operator) -> None:
    if operator.role is Role.SERVER:
        raise AccessDeniedError("a token of the role server reads no documents; ask for one of a reader")


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """Return a document as it was sent, its fields of the right kinds.

    Raises:
        MemoryDocumentError: one is not, or is unknown.
    """
    texts = all(isinstance(body[name], str) for name in _TEXTS if name in body)
    known = set(body) <= {*_TEXTS, "accept_marked"}
    if not (
        texts and known and {"id", "text"} <= set(body) and type(body.get("accept_marked", False)) is bool
    ):
        raise MemoryDocumentError(
            'the body must be {"id": a name, "text": what it says}, and may hold title, source, collection, domain, '
            "valid_until, reason (texts) and accept_marked (true or false)"
        )
    return body


def _instant(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise MemoryDocumentError(
            f"valid_until is {given[:40]!r}; allowed is an instant such as 2027-01-31T00:00:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
