"""One request with all that was decided about it: what the engine is asked, and the headers that say how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streams.client.routing import Lever
from streams.gateway import answers
from streams.gateway.choosing import Choice, Reason, base_instead
from streams.gateway.upstreams import Call

if TYPE_CHECKING:
    from streams.client.routing import LatencyChoice
    from streams.gateway.callers import Caller
    from streams.gateway.choosing import Rules
    from streams.gateway.desired import Line
    from streams.gateway.requests import Ask
    from streams.gateway.routed import Routed
    from streams.gateway.upstreams import Upstream


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with all that was decided about it."""

    answer_id: str
    ask: Ask
    caller: Caller
    user: str | None
    line: Line | None
    choice: Choice
    upstream: Upstream
    started: float  # on the monotonic clock
    routed: Routed | None = None
    dropped: tuple[Lever, ...] = ()

    @property
    def levers(self) -> frozenset[Lever]:
        """What is done for the request beside the base's own answer."""
        wanted = {
            Lever.CONSTRAINT: self.constraint is not None,
            Lever.TEMPLATE: self.choice.template is not None and self.ask.prompt is not None,
            Lever.ADAPTER: self.choice.adapter is not None,
        }
        return frozenset(lever for lever, used in wanted.items() if used)

    @property
    def constraint(self) -> str | None:
        """Name of the constraint that the engine is given, if it is."""
        wanted = {"regex": self.choice.pattern, "grammar": self.choice.grammar}
        name = self.upstream.constraint
        plain = self.ask.prompt is not None and self.ask.bounded
        return name if name is not None and plain and wanted[name] else None

    def call(self) -> Call:
        """Return what the engine is asked."""
        template, prompt = self.choice.template, self.ask.prompt
        document = self.ask.document
        if template is not None and prompt is not None:
            document = self.ask.with_prompt(template.render(prompt, values=self.ask.metadata))
        return Call(
            form=self.ask.form,
            document=document,
            adapter=self.choice.adapter,
            prompt=prompt,
            pattern=self.choice.pattern if self.constraint == "regex" else "",
            grammar=self.choice.grammar if self.constraint == "grammar" else "",
            tenant=self.caller.tenant_id,
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that say how the answer was made."""
        choice = self.choice
        if self.ask.prompt is None and choice.template is not None:
            choice = Choice(line_ref=choice.line_ref, adapter=choice.adapter, reason=choice.reason)
        told = answers.applied(self.answer_id, choice, self.constraint)
        if self.routed is not None:
            told |= self.routed.headers()
        if self.dropped:
            told[answers.DROPPED_HEADER] = ",".join(lever.value for lever in self.dropped)
        return told

    def within(self, fit: LatencyChoice, rules: Rules) -> Plan:
        """Return the plan without what takes longer than its tenant allows."""
        if not fit.dropped:
            return self
        choice = self.choice
        if Lever.ADAPTER in fit.dropped:
            choice = base_instead(choice, self.line, Reason.OVER_BUDGET, rules)
        if Lever.CONSTRAINT in fit.dropped:
            choice = replace(choice, pattern="", grammar="")
        if Lever.TEMPLATE in fit.dropped or Lever.ADAPTER in fit.dropped:
            choice = replace(choice, template=None)
        return replace(self, choice=choice, dropped=fit.dropped)
