"""What was decided about each lever of one request, and why: the value behind ``x-discreet-levers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from personalization.memory.values import Outcome
from personalization.terms.values import TermUse
from streams.client.routing import Lever
from streams.gateway.choosing import Reason

if TYPE_CHECKING:
    from streams.gateway.planned import Plan

NONE: Final = "none"  # the line has nothing of it
NOT_PLAIN: Final = "not_plain"  # the request has tools, images or a form of its own, or asks for logprobs
OVER_BUDGET: Final = "over_budget"  # left out for the tenant's latency budget
NO_ANSWER_LENGTH: Final = "no_answer_length"  # the request does not bound its tokens
MOST_NAMED: Final = 20  # collections whose versions the header names
NOT_AT_ENGINE: Final = "not_at_engine"  # the engine cannot


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One lever of one request.

    Attributes:
        lever: adapter, template, memory, terms or constraint.
        on: whether it was used.
        reason: why, in a stable word; of one that was used, which. Of memory it is followed by the versions of the
            collections that were looked in.
    """

    lever: str
    on: bool
    reason: str


def decisions(plan: Plan) -> tuple[Decision, ...]:
    """Return what was decided about each lever, in a fixed order."""
    return (_adapter(plan), _template(plan), _memory(plan), _terms(plan), _constraint(plan))


def header(plan: Plan) -> str:
    """Return the decisions as the value of a header; no word of a prompt is in it."""
    return ", ".join(f"{one.lever}={'on' if one.on else 'off'};{one.reason}" for one in decisions(plan))


def _adapter(plan: Plan) -> Decision:
    return Decision(lever="adapter", on=plan.choice.adapter is not None, reason=plan.choice.reason.value)


def _template(plan: Plan) -> Decision:
    template = plan.choice.template
    if template is not None and plan.ask.prompt is not None:
        own = template is plan.choice.operators
        return Decision(lever="template", on=True, reason="operator" if own else "card")
    return _off("template", plan, Lever.TEMPLATE, NONE if template is None else NOT_PLAIN)


def _memory(plan: Plan) -> Decision:
    if plan.found is not None:
        on = plan.found.outcome is Outcome.FOUND
        looked_in = "+".join(few(plan.found.versions))
        reason = f"{plan.found.outcome.value};{looked_in}" if looked_in else plan.found.outcome.value
        return Decision(lever="memory", on=on, reason=reason)
    return _off("memory", plan, Lever.RETRIEVAL, NONE if plan.ask.prompt is not None else NOT_PLAIN)


def few(versions: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many as a header holds; a tenant may have any number of collections, and a proxy allows 4 KiB or 8."""
    more = len(versions) - MOST_NAMED
    return versions if more <= 0 else (*versions[:MOST_NAMED], f"{more}_more")


def _terms(plan: Plan) -> Decision:
    if plan.terms is None:
        return _off("terms", plan, None, NONE)
    if plan.ask.prompt is None:
        return _off("terms", plan, None, NOT_PLAIN)
    tells = plan.terms.use.tells and Lever.TERMS not in plan.dropped
    if tells or plan.corrects:
        use = TermUse.GLOSSARY if not plan.corrects else TermUse.BOTH if tells else TermUse.CORRECT
        return Decision(lever="terms", on=True, reason=(TermUse.FAVOUR if plan.favoured else use).value)
    return _off("terms", plan, Lever.TERMS, NOT_PLAIN)


def _constraint(plan: Plan) -> Decision:
    if plan.constraint is not None:
        return Decision(lever="constraint", on=True, reason=plan.constraint)
    if not (plan.choice.pattern or plan.choice.grammar):
        return _off("constraint", plan, Lever.CONSTRAINT, NONE)
    if plan.upstream.constraint is None:
        return _off("constraint", plan, None, NOT_AT_ENGINE)
    return _off("constraint", plan, None, NOT_PLAIN if plan.ask.prompt is None else NO_ANSWER_LENGTH)


def _off(lever: str, plan: Plan, budgeted: Lever | None, otherwise: str) -> Decision:
    if plan.ask.domain is None:
        return Decision(lever=lever, on=False, reason=Reason.ASKED_FOR_BASE.value)
    dropped = budgeted is not None and budgeted in plan.dropped
    return Decision(lever=lever, on=False, reason=OVER_BUDGET if dropped else otherwise)
