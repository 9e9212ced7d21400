"""Choose for one request: which adapter, which template, which constraint, and say why.

Nothing is chosen but from the line of the caller's own tenant. Where its adapter cannot be had, the base model answers,
and the reason says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from personalization.prompts.rendering import card_rendering
from personalization.prompts.values import When
from personalization.rollouts.values import Flag
from streams.contracts.adapter import drawn_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from personalization.prompts.rendering import Rendering
    from streams.gateway.desired import Line, Version


class Reason(StrEnum):
    """Why an answer was made the way it was."""

    APPLIED = "applied"  # the line's adapter answers
    CANDIDATE = "candidate"  # its candidate does, by the draw of the subject
    NO_LINE = "no_line"  # no round was ever opened for the tenant's domain
    NO_ADAPTER = "no_adapter"  # the line has published nothing, or was withdrawn
    NOT_VERIFIED = "not_verified"  # the server has not verified the version, or failed to
    NOT_HELD = "not_held"  # the engine does not hold it now
    NO_ADAPTERS_HERE = "no_adapters_here"  # the engine applies none
    SWITCHED_OFF = "switched_off"  # the line's flag is off
    OVER_BUDGET = "over_budget"  # an adapter would take longer than the tenant's latency budget
    ASKED_FOR_BASE = "asked_for_base"
    WRONG_ANSWERER = "wrong_answerer"  # another model answered than was asked; its answer was thrown away
    ENGINE_DOWN = "engine_down"  # the fallback answered


class Use(StrEnum):
    """When the template of a style card is put around a prompt."""

    INSTEAD = "instead"  # where no adapter is applied
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a request is answered with.

    Attributes:
        line_ref: line of the tenant's domain, if there is one.
        adapter: served name; ``None`` is the base model.
        template: to put around the prompt, if any.
        operators: the template that an operator has the line use, kept for when the adapter turns out not to be there.
        pattern: regular expression for constrained decoding; empty for none.
        grammar: the same as GBNF.
        reason: why.
    """

    line_ref: str | None = None
    adapter: str | None = None
    template: Rendering | None = None
    operators: Rendering | None = None
    pattern: str = ""
    grammar: str = ""
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds for every request of a gateway."""

    template: Use = Use.INSTEAD
    constrained: bool = True
    applies_adapters: bool = True
    presence_penalty: float = 0.0  # of answers with an adapter, where the request sets no penalty


def choose(
    line_ref: str | None,
    line: Line | None,
    *,
    subject: str | None,
    refusal: Callable[[str], Reason | None],
    rules: Rules,
    operators: Rendering | None = None,
) -> Choice:
    """Return what to answer with.

    Args:
        line_ref: the line of the tenant's domain, ``None`` when there is none.
        line: what it wants served.
        subject: who asks, for the draw of candidates; without one nobody gets a candidate.
        refusal: says why a served name cannot be had now; ``None`` when it can.
        rules: of the gateway.
        operators: the template that an operator has the line use for this subject, if any.
    """
    if line_ref is None:
        return Choice(reason=Reason.NO_LINE)
    if line is not None and line.flag is Flag.OFF:
        return Choice(line_ref=line_ref, reason=Reason.SWITCHED_OFF)
    if line is None or line.adapter is None:
        return Choice(
            line_ref=line_ref,
            template=None if rules.template is Use.NEVER else operators,
            operators=operators,
            reason=Reason.NO_ADAPTER,
        )
    candidate = line.candidate if rules.applies_adapters and drawn(line, subject) else None
    if candidate is not None and refusal(candidate.served_name) is None:
        return _with(line_ref, candidate, Reason.CANDIDATE, rules, operators)
    refused = refusal(line.adapter.served_name) if rules.applies_adapters else Reason.NO_ADAPTERS_HERE
    if refused is not None:
        return _without(line_ref, line.adapter, refused, rules, operators)
    return _with(line_ref, line.adapter, Reason.APPLIED, rules, operators)


def asked_for(line: Line | None, subject: str | None) -> tuple[str, ...]:
    """Return the served names that a request would be answered by if all of them could be had."""
    if line is None or line.adapter is None or line.flag is Flag.OFF:
        return ()
    if line.candidate is not None and (line.flag is Flag.SHADOW or drawn(line, subject)):
        return (line.candidate.served_name, line.adapter.served_name)
    return (line.adapter.served_name,)


def silently(choice: Choice, line: Line | None, rules: Rules) -> Choice | None:
    """Return the choice of a line's candidate that answers silently beside a choice; ``None`` where none does."""
    if line is None or line.candidate is None or line.flag is not Flag.SHADOW or choice.line_ref is None:
        return None
    return _with(choice.line_ref, line.candidate, Reason.CANDIDATE, rules, choice.operators)


def base_instead(choice: Choice, line: Line | None, reason: Reason, rules: Rules) -> Choice:
    """Return the choice after the adapter turned out not to be there: the base, with the line's own template."""
    if line is None or line.adapter is None or choice.line_ref is None:
        return replace(choice, adapter=None, reason=reason)
    return _without(choice.line_ref, line.adapter, reason, rules, choice.operators)


def drawn(line: Line, subject: str | None) -> bool:
    """Say whether a subject gets the line's candidate; the same subject always gets the same answer."""
    return within_share(line.salt, subject, line.candidate_percent)


def within_share(salt: str, subject: str | None, percent: float) -> bool:
    """Say whether a subject is within a share; who is within one is within every larger one."""
    if subject is None:
        return False
    return drawn_at(salt, subject) < percent


def _with(
    line_ref: str, version: Version, reason: Reason, rules: Rules, operators: Rendering | None
) -> Choice:
    own = operators if operators is not None and operators.when is When.ALWAYS else None
    wanted = rules.template is Use.ALWAYS
    return _choice(line_ref, version, version.served_name, reason, rules, operators, own, wanted=wanted)


def _without(
    line_ref: str, version: Version, reason: Reason, rules: Rules, operators: Rendering | None
) -> Choice:
    wanted = rules.template is not Use.NEVER
    return _choice(line_ref, version, None, reason, rules, operators, operators, wanted=wanted)


def _choice(
    line_ref: str,
    version: Version,
    adapter: str | None,
    reason: Reason,
    rules: Rules,
    operators: Rendering | None,
    own: Rendering | None,
    *,
    wanted: bool,
) -> Choice:
    """Return a choice with the operator's template where it is to be used, else the card's where that is wanted."""
    template = None if own is not None or not wanted else card_rendering(version.template)
    return Choice(
        line_ref=line_ref,
        adapter=adapter,
        template=template if own is None or rules.template is Use.NEVER else own,
        operators=operators,
        pattern=version.pattern if rules.constrained else "",
        grammar=version.grammar if rules.constrained else "",
        reason=reason,
    )
