"""One request with all that was decided about it: what the engine is asked, and the headers that say how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from personalization.adapters.decoding import PENALTIES
from personalization.memory.rendering import note, with_notes
from personalization.prompts.rendering import without_marks
from personalization.terms.values import TermUse
from streams.client.routing import Lever
from streams.gateway import answers
from streams.gateway.choosing import Choice, Reason, base_instead
from streams.gateway.decided import few, header
from streams.gateway.terming import glossary
from streams.gateway.upstreams import Call

if TYPE_CHECKING:
    from personalization.memory.values import Found
    from streams.client.routing import LatencyChoice
    from streams.client.terms import Term
    from streams.gateway.callers import Caller
    from streams.gateway.choosing import Rules
    from streams.gateway.desired import Line
    from streams.gateway.requests import Ask
    from streams.gateway.routed import Routed
    from streams.gateway.terming import UsableTerms
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
    asked_for: tuple[str, ...] = ()  # versions that would answer if all of them could be had
    routed: Routed | None = None
    dropped: tuple[Lever, ...] = ()
    fitted: LatencyChoice | None = None  # into the latency budget, before anything was looked up
    terms: UsableTerms | None = None
    corrected: int = 0  # terms that were put right in the answer
    has_memory: bool = False  # the tenant approved documents for the domain, and they may be looked up
    found: Found | None = None  # what was looked up; None before, and where nothing is
    looked_seconds: float = 0.0  # how long that took
    presence_penalty: float = 0.0  # of an answer with an adapter, where the request sets no penalty

    @cached_property
    def told(self) -> tuple[Term, ...]:
        """The terms that the prompt is told of: those that it, or a passage before it, speaks of."""
        if self.terms is None or self.ask.prompt is None or Lever.TERMS in self.dropped:
            return ()
        return self.terms.told(self.ask.prompt, *self.notes)

    @property
    def favoured(self) -> tuple[str, ...]:
        """The names that the engine makes likelier: those that the prompt is told of, where it can."""
        wanted = self.terms is not None and self.terms.use is TermUse.FAVOUR and self.upstream.favours
        names = [without_marks(one.meant).strip() for one in self.told] if wanted else ()
        return tuple(name for name in names if name)

    @property
    def corrects(self) -> bool:
        """Whether the terms of the answer are put right: of one text, of which nothing else is told."""
        plain = self.ask.prompt is not None and not self.ask.document.get("logprobs")
        return plain and self.terms is not None and self.terms.use.corrects

    @property
    def levers(self) -> frozenset[Lever]:
        """What is done for the request beside the base's own answer."""
        wanted = {
            Lever.RETRIEVAL: self.has_memory,
            Lever.CONSTRAINT: self.constraint is not None,
            Lever.TERMS: bool(self.told),
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

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the tenant's documents stands before the prompt."""
        passages = () if self.found is None else self.found.passages
        return tuple(
            note(one.document.title, one.chunk.section, one.chunk.text, one.document.added_at.date())
            for one in passages
        )

    @property
    def untaught(self) -> tuple[str, ...]:
        """What an answer must not carry into training: the notes, and the same as its terms would have been put right.

        An answer that was copied from a note says the terms of that note as they are meant, so no longer its words.
        """
        if self.terms is None or not self.corrects:
            return self.notes
        put_right = (self.terms.terms.correct(one).text for one in self.notes)
        return tuple(dict.fromkeys((*self.notes, *put_right)))

    @property
    def penalty(self) -> float:
        """The presence penalty that the gateway adds; 0 for none, as for tools and formats, which repeat by nature."""
        own = any(self.ask.document.get(name) is not None for name in PENALTIES)
        if own or self.choice.adapter is None or self.ask.prompt is None:
            return 0.0
        return self.presence_penalty

    def call(self) -> Call:
        """Return what the engine is asked."""
        template, prompt = self.choice.template, self.ask.prompt
        document = self.ask.document
        if prompt is not None:
            told = without_marks(glossary(self.told))
            text = prompt
            if told and (template is None or not template.wants_glossary):
                text = f"{told}\n\n{prompt}"
            if template is not None:
                text = template.render(text, glossary=told, values=self.ask.metadata)
            if self.notes:
                text = with_notes(text, self.notes)
            if text != prompt:
                document = self.ask.with_prompt(text)
        if self.penalty:
            document = {**document, "presence_penalty": self.penalty}
        return Call(
            form=self.ask.form,
            document=document,
            adapter=self.choice.adapter,
            prompt=prompt,
            pattern=self.choice.pattern if self.constraint == "regex" else "",
            grammar=self.choice.grammar if self.constraint == "grammar" else "",
            favour=self.favoured,
            tenant=self.caller.tenant_id,
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that say how the answer was made."""
        choice = self.choice
        if self.ask.prompt is None and choice.template is not None:
            choice = Choice(line_ref=choice.line_ref, adapter=choice.adapter, reason=choice.reason)
        told = answers.applied(self.answer_id, choice, self.constraint)
        told[answers.TERMS_HEADER] = self._terms_header()
        told[answers.LEVERS_HEADER] = header(self)
        if self.routed is not None:
            told |= self.routed.headers()
        if self.found is not None:
            cited = ",".join(one.citation for one in self.found.passages) or self.found.outcome.value
            tried = "+".join(few(self.found.candidates))
            told[answers.MEMORY_HEADER] = f"{cited}; candidate={tried}" if tried else cited
        if self.penalty:
            told[answers.PENALTY_HEADER] = f"{self.penalty:g}"
        if self.dropped:
            told[answers.DROPPED_HEADER] = ",".join(lever.value for lever in self.dropped)
        return told

    def _terms_header(self) -> str:
        if self.terms is None or self.ask.prompt is None:
            return "none"
        use = self.terms.use
        parts = [f"told={len(self.told)}"] if use.tells else []
        if use.corrects:
            count = (
                "in_stream" if self.ask.stream else self.corrected
            )  # a stream's headers come before its text
            parts.append(f"corrected={count}" if self.corrects else "corrected=not_here")
        return ",".join(parts)

    def within(self, fit: LatencyChoice, rules: Rules) -> Plan:
        """Return the plan without what takes longer than its tenant allows."""
        if not fit.dropped:
            return self
        choice = self.choice
        if Lever.ADAPTER in fit.dropped:
            choice = base_instead(choice, self.line, Reason.OVER_BUDGET, rules)
        dropped = (*self.dropped, *fit.dropped)
        kept = self.has_memory and Lever.RETRIEVAL not in fit.dropped
        return replace(self, choice=_without(choice, dropped), dropped=dropped, has_memory=kept)

    def without_memory(self) -> Plan:
        """Return the plan without what the memory did not tell in the time that is left for it."""
        return replace(self, dropped=(*self.dropped, Lever.RETRIEVAL), has_memory=False)

    def instead(self, reason: Reason, rules: Rules, upstream: Upstream) -> Plan:
        """Return the plan with the base in the place of an adapter that was not there; what was dropped stays so."""
        choice = base_instead(self.choice, self.line, reason, rules)
        return replace(self, choice=_without(choice, self.dropped), upstream=upstream)


def _without(choice: Choice, dropped: tuple[Lever, ...]) -> Choice:
    if Lever.CONSTRAINT in dropped:
        choice = replace(choice, pattern="", grammar="")
    if Lever.TEMPLATE in dropped or Lever.ADAPTER in dropped:
        choice = replace(choice, template=None)
    return choice
