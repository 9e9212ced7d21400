"""One request from body to answer: choose, ask the engine, fall back where nothing has been said yet, remember.

Until the first byte has left, whatever goes wrong with an adapter ends in the base model's answer, and what goes wrong
with the engine in the fallback's or in a status. After it there is no second try: a stream that breaks off ends with an
error that clients see. Longer than 400 lines, because both forms of answers share every step.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.responses import StreamingResponse

from streams.client.routing import Lever
from streams.contracts.fields import MAX_TEXT_CHARACTERS
from streams.errors import AdapterGoneError, EngineAwayError, GatewayError, WrongAnswererError
from streams.gateway import answers
from streams.gateway.choosing import Choice, Reason, asked_for, choose, silently
from streams.gateway.flagged import under
from streams.gateway.leaving import unless_gone
from streams.gateway.memories import has_memory, looked_up
from streams.gateway.planned import Plan
from streams.gateway.prompting import prompt_for, require_allowed
from streams.gateway.remembered import Shown
from streams.gateway.requests import DEFAULT_DOMAIN, read_ask, unknown_model
from streams.gateway.terming import terms_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from streams.gateway.budgeted import LatencyBudgets
    from streams.gateway.callers import Caller
    from streams.gateway.choosing import Rules
    from streams.gateway.desired import Line
    from streams.gateway.directory import Directory
    from streams.gateway.engine_watch import EngineWatch
    from streams.gateway.kpis import Kpis
    from streams.gateway.limits import Places
    from streams.gateway.memories import Memories
    from streams.gateway.remembered import Remembered
    from streams.gateway.requests import Ask, Form
    from streams.gateway.routed import DomainRouting
    from streams.gateway.shadowing import Shadow
    from streams.gateway.upstreams import Upstream
    from streams.gateway.wanted import Wanted

_STREAM_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Shop:
    """What requests are answered with.

    Attributes:
        model: the name under which clients ask.
        upstream: the engine.
        fallback: asked when the engine does not answer; it applies no adapters.
        watch: what the engine holds.
        wanted: is told which versions requests ask for, whether or not the engine holds them.
        line: returns what an adapter line wants served.
        notice: returns the notice under which a user consents to training, ``None`` without consent.
        remembered: answers that feedback may come to.
        places: bounds on requests in progress.
        rules: of choosing.
        ping_seconds: after which silence a stream says that it is still there.
        flagged: returns what a line's flag leaves of it for a tenant's domain.
        shadow: asks candidates silently.
        kpis: count answers.
        routing: chooses among a tenant's lines where a request names none.
        budgets: drops what would take longer than a tenant allows.
        memories: look questions up in tenants' documents; ``None`` where that is off.
    """

    model: str
    upstream: Upstream
    fallback: Upstream | None
    watch: EngineWatch
    wanted: Wanted
    line: Callable[[str], Line | None]
    notice: Callable[[str, str], str | None]
    remembered: Remembered
    places: Places
    rules: Rules
    ping_seconds: float
    flagged: Callable[[Line, str, str], Line]
    shadow: Shadow
    kpis: Kpis
    routing: DomainRouting
    budgets: LatencyBudgets
    memories: Memories | None = None


class Answering:
    """Answers requests; for one event loop."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def answer(
        self, request: Request, form: Form, body: object, caller: Caller, directory: Directory
    ) -> tuple[Response, Reason]:
        """Return the answer to one request, and how it was made.

        Raises:
            GatewayError: there is none, and why.
            ClientLeftError: nobody waits for it.
        """
        ask = read_ask(form, body, model=self._shop.model)
        if not ask.stream:
            with self._shop.places.place(caller.tenant_id):
                plan = await self._let_in(request, ask, caller, directory)
                plan, document = await self._tried(
                    plan, lambda one: unless_gone(request, one.upstream.whole(one.call()))
                )
            return self._whole(plan, document), plan.choice.reason
        self._shop.places.take(caller.tenant_id)  # given back when the stream has ended
        try:
            plan = await self._let_in(request, ask, caller, directory)
            plan, (first, pieces) = await self._tried(plan, lambda one: unless_gone(request, _begun(one)))
            try:
                stream = _Stream(
                    first,
                    pieces,
                    plan=plan,
                    ping_seconds=self._shop.ping_seconds,
                    on_end=lambda text, whole: self._ended(plan, text, whole=whole),
                )
            except BaseException:
                await asyncio.shield(_closed(None, pieces))
                raise
        except BaseException:
            self._shop.places.give_back(caller.tenant_id)
            raise
        return stream, plan.choice.reason

    async def _let_in(self, request: Request, ask: Ask, caller: Caller, directory: Directory) -> Plan:
        """Return the plan of a request that has a place; nothing that takes time is done for one that has none."""
        shop, started = self._shop, time.monotonic()
        meaning = await shop.routing.meaning(caller.tenant_id, directory, ask)
        plan = self._plan(ask, caller, directory, meaning, started)
        shop.wanted.note(plan.caller.tenant_id, plan.asked_for)
        fitted = plan.fitted
        if not plan.has_memory or fitted is None:
            return plan
        room = shop.budgets.room(caller.tenant_id, fitted, Lever.RETRIEVAL, stream=ask.stream)
        plan = await looked_up(shop.memories, request, plan, room=room)
        if Lever.RETRIEVAL in plan.dropped:
            shop.budgets.gave_up(caller.tenant_id, Lever.RETRIEVAL, plan.looked_seconds, stream=ask.stream)
        left = shop.budgets.fit_rest(
            caller.tenant_id,
            fitted,
            plan.levers - {Lever.RETRIEVAL},  # its time has passed, whatever it brought
            stream=ask.stream,
            spent=time.monotonic() - started,
        )
        return plan.within(left, shop.rules)

    def _ended(self, plan: Plan, text: str | None, *, whole: bool) -> None:
        self._shop.places.give_back(plan.caller.tenant_id)
        self._after(plan, text, whole=whole)

    def _plan(
        self,
        ask: Ask,
        caller: Caller,
        directory: Directory,
        meaning: NDArray[np.float32] | None,
        started: float,
    ) -> Plan:
        shop = self._shop
        lines = directory.lines.get(caller.tenant_id, {})
        user = caller.user(ask.user)
        routed = None
        if ask.domain == DEFAULT_DOMAIN:
            routed = shop.routing.route(
                caller.tenant_id,
                lines,
                ask.prompt,
                line=lambda domain, ref: self._line(directory, caller.tenant_id, domain, ref),
                loaded=lambda name: not shop.rules.applies_adapters or shop.watch.refusal(name) is None,
                meaning=meaning,
            )
            if routed is not None:
                ask = replace(ask, domain=routed.domain)
        line = None
        terms = None
        if ask.domain is None:
            choice = Choice(reason=Reason.ASKED_FOR_BASE)
        else:
            line_ref = lines.get(ask.domain if routed is None else routed.serves)
            if line_ref is None and ask.domain != DEFAULT_DOMAIN:
                raise unknown_model()
            line = None if line_ref is None else self._line(directory, caller.tenant_id, ask.domain, line_ref)
            prompt = prompt_for(directory, line_ref, user)
            terms = terms_for(directory, line_ref, line)
            if prompt is not None and ask.prompt is not None:
                require_allowed(prompt.template, ask.metadata)
            choice = choose(
                line_ref,
                line,
                subject=user,
                refusal=shop.watch.refusal,
                rules=shop.rules,
                operators=None if prompt is None else prompt.rendering,
            )
        plan = Plan(
            answer_id=answers.new_id(ask.form, secrets.token_hex(16)),
            ask=ask,
            caller=caller,
            user=user,
            line=line,
            # The line that the router wanted is loaded for the next request.
            asked_for=asked_for(line, user) + asked_for(routed.wanted if routed else None, user),
            choice=choice,
            upstream=shop.upstream,
            routed=routed,
            terms=terms,
            presence_penalty=shop.rules.presence_penalty,
            started=started,
            has_memory=shop.memories is not None and has_memory(directory, caller, ask),
        )
        spent = time.monotonic() - started
        fitted = shop.budgets.fit(caller.tenant_id, plan.levers, stream=ask.stream, spent=spent)
        return replace(plan.within(fitted, shop.rules), fitted=fitted)

    def _line(self, directory: Directory, tenant_id: str, domain: str, line_ref: str) -> Line | None:
        """Return what a line wants served, as far as the lower of its two flags lets it: the feed's, the database's."""
        line = self._shop.line(line_ref)
        if line is None:
            return None
        line = self._shop.flagged(line, tenant_id, domain)
        return under(line, line.flag.lesser(directory.flags.get(line_ref, line.flag)))

    async def _tried(
        self, plan: Plan, attempt: Callable[[Plan], Coroutine[Any, Any, Result]]
    ) -> tuple[Plan, Result]:
        """Return what an attempt returns, with the plan that it was made by: the adapter, the base, or the fallback."""
        shop = self._shop
        try:
            try:
                return plan, await self._timed(plan, attempt)
            except (AdapterGoneError, WrongAnswererError) as error:
                wrong = isinstance(error, WrongAnswererError)
                if plan.choice.adapter is not None and not wrong:
                    shop.watch.gone(plan.choice.adapter)
                reason = Reason.WRONG_ANSWERER if wrong else Reason.NOT_HELD
                plan = self._base(plan, reason, shop.upstream)
                return plan, await attempt(plan)
        except (EngineAwayError, WrongAnswererError, AdapterGoneError) as error:
            plan = self._base(plan, Reason.ENGINE_DOWN, shop.fallback or shop.upstream)
            if shop.fallback is None:
                raise _away(error, plan) from None
            try:
                return plan, await attempt(plan)
            except EngineAwayError as again:
                raise _away(again, plan) from None

    async def _timed(self, plan: Plan, attempt: Callable[[Plan], Coroutine[Any, Any, Result]]) -> Result:
        start = time.monotonic()
        result = await attempt(plan)
        took = time.monotonic() - start
        if Lever.RETRIEVAL in plan.levers:  # one that was given up has been noted by itself
            took += plan.looked_seconds
        self._shop.budgets.observe(plan.caller.tenant_id, plan.levers, took, stream=plan.ask.stream)
        return result

    def _base(self, plan: Plan, reason: Reason, upstream: Upstream) -> Plan:
        return plan.instead(reason, self._shop.rules, upstream)

    def _whole(self, plan: Plan, document: dict[str, Any]) -> Response:
        document["id"], document["model"] = plan.answer_id, plan.ask.model
        text = answers.said(plan.ask.form, document)
        if plan.terms is not None and plan.corrects and text is not None:
            put_right = plan.terms.terms.correct(text)
            text = put_right.text
            answers.say(plan.ask.form, document, text)
            plan = replace(plan, corrected=len(put_right.corrections))
        self._after(plan, text, whole=True, tokens=answers.tokens(document))
        return answers.json_answer(document, headers=plan.headers())

    def _after(self, plan: Plan, text: str | None, *, whole: bool, tokens: int | None = None) -> None:
        """Count and keep an answer that was given, and have a candidate answer silently where the line wants it."""
        shop = self._shop
        if plan.ask.domain is not None:
            shop.kpis.answered(
                plan.caller.tenant_id,
                plan.ask.domain,
                plan.choice.adapter,
                seconds=time.monotonic() - plan.started,
                tokens=tokens,
                whole=whole,
            )
        self._remember(plan, text, whole=whole)
        silent = silently(plan.choice, plan.line, shop.rules)
        if silent is None or silent.adapter is None or text is None or not whole:
            return
        if plan.choice.reason is Reason.APPLIED and shop.watch.refusal(silent.adapter) is None:
            shop.shadow.ask(shop.upstream, replace(plan, choice=silent).call(), text)

    def _remember(self, plan: Plan, text: str | None, *, whole: bool) -> None:
        """Keep an answer for its user's feedback, if its user consents and its texts fit into an event."""
        prompt, user = plan.ask.prompt, plan.user
        if user is None or not prompt or text is None or plan.ask.domain is None:
            return
        if max(len(prompt), len(text)) > MAX_TEXT_CHARACTERS:
            return
        if self._shop.notice(plan.caller.tenant_id, user) is None:
            return
        shown = Shown(
            prompt=prompt,
            completion=text,
            domain=plan.ask.domain,
            served_name=plan.choice.adapter,
            whole=whole,
            passages=plan.untaught,
        )
        self._shop.remembered.keep(plan.answer_id, plan.caller.tenant_id, user, shown)


class _Stream(StreamingResponse):
    """Sends pieces under our own id and model, and the end that clients wait for.

    Args:
        first: the first piece.
        pieces: the others.
        plan: of the request.
        ping_seconds: after which silence something is sent.
        on_end: called once, however the stream ended, with what was said and whether it was said to its end.
    """

    def __init__(
        self,
        first: dict[str, Any] | None,
        pieces: AsyncIterator[dict[str, Any]],
        *,
        plan: Plan,
        ping_seconds: float,
        on_end: Callable[[str | None, bool], None],
    ) -> None:
        super().__init__(
            self._frames(),
            media_type="text/event-stream",
            headers={**plan.headers(), **_STREAM_HEADERS},
        )
        self._first = first
        self._pieces = pieces
        self._plan = plan
        self._ping_seconds = ping_seconds
        self._on_end = on_end
        self._said = answers.Transcript(plan.ask.form)
        self._terms = None
        if plan.terms is not None and plan.corrects:
            self._terms = answers.TermPieces(plan.ask.form, plan.terms.terms.stream())
        self._whole = False
        self._coming: asyncio.Future[dict[str, Any] | None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; what is held for it is given back even when nothing could be sent."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end(self._said.text, self._whole)
            await asyncio.shield(_closed(self._coming, self._pieces))

    async def _frames(self) -> AsyncIterator[bytes]:
        piece = self._first
        try:
            while piece is not None:
                if "error" in piece:
                    raise _broken_off()
                for one in [piece] if self._terms is None else self._terms.put_right(piece):
                    if (sent := self._sent(one)) is not None:
                        yield sent
                self._coming = asyncio.ensure_future(_next(self._pieces))
                while not (await asyncio.wait({self._coming}, timeout=self._ping_seconds))[0]:
                    yield answers.PING
                piece = self._coming.result()
            if not self._said.finished:
                raise _broken_off()
            self._whole = True
            yield answers.DONE
        except GatewayError as error:
            # What was held back for its terms was said before the engine broke off.
            for one in () if self._terms is None else self._terms.rest():
                if (sent := self._sent(one)) is not None:
                    yield sent
            yield answers.frame(answers.error_document(error))

    def _sent(self, piece: dict[str, Any]) -> bytes | None:
        """Return the frame of a piece under our own id and model, and note what it says; ``None``: it is not sent."""
        ask = self._plan.ask
        self._said.add(piece)
        if not (ask.include_usage or piece.get("choices")):
            return None
        piece["id"], piece["model"] = self._plan.answer_id, ask.model
        if not ask.include_usage:
            piece.pop("usage", None)
        return answers.frame(piece)


async def _begun(plan: Plan) -> tuple[dict[str, Any] | None, AsyncIterator[dict[str, Any]]]:
    """Return the first piece of a stream, and the rest; nothing of it is lost when it raises."""
    pieces = plan.upstream.pieces(plan.call())
    try:
        return await _next(pieces), pieces
    except BaseException:
        await asyncio.shield(_closed(None, pieces))
        raise


async def _next(pieces: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(pieces, None)


async def _closed(coming: asyncio.Future[Any] | None, pieces: AsyncIterator[dict[str, Any]]) -> None:
    """Stop waiting for the next piece, and close the way to the engine, which then stops as well."""
    if coming is not None and not coming.done():
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError, GatewayError):
            await coming
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()


def _away(error: GatewayError, plan: Plan) -> EngineAwayError:
    away = (
        error if isinstance(error, EngineAwayError) else EngineAwayError("the engine cannot be relied on now")
    )
    away.headers = plan.headers()
    return away


def _broken_off() -> EngineAwayError:
    return EngineAwayError("the engine broke off before the end of its answer")
