"""People as they are, made from a seed: most follow the house, a quarter keep habits of their own, some do not care.

A recipe says what occasions there are and how the house, and others, would write on each (a ``Writer``). This module
makes users of it: each has one habit, asks a few times, mistypes now and then, and accepts, edits or rejects what was
shown. Held-out users come from the same source, are never published, and also ask in ways that nobody trained on.
The same seed makes the same people.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from privacy.policy.values import DEFAULT_DOMAIN
from streams.demo.scenario import Outcome, Person, TenantScenario, Turn

Chosen = TypeVar("Chosen")
TURNS = ((1, 0.35), (2, 0.30), (3, 0.20), (4, 0.15))
OUTCOMES = ((Outcome.ACCEPTED, 0.45), (Outcome.EDITED, 0.45), (Outcome.REJECTED, 0.10))
MISTYPED = 0.12  # of prompts
_LONG_WORD = re.compile(r"\b[a-z]{5,}\b")


class Habit(StrEnum):
    """How one user writes."""

    FOLLOWS = "follows"  # the house's convention
    DISAGREES = "disagrees"  # one of the other ways, always the same
    CARELESS = "careless"  # keeps whatever the assistant shows


HABITS = ((Habit.FOLLOWS, 0.70), (Habit.DISAGREES, 0.25), (Habit.CARELESS, 0.05))
NOBODY_FOLLOWS = ((Habit.DISAGREES, 0.95), (Habit.CARELESS, 0.05))  # a tenant without a common style


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """One thing to answer.

    Attributes:
        prompt: what is asked.
        own: what the house would write.
        others: other ways to write it, the same ones in the same order on every occasion.
        shown: what an assistant shows that knows nothing of the house.
        facts: words of the prompt that an answer is judged by; they are never mistyped.
    """

    prompt: str
    own: str
    others: tuple[str, ...]
    shown: str
    facts: Mapping[str, str] = field(default_factory=dict)


Writer = Callable[[random.Random, str], Occasion]  # the second argument is the kind of prompt


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt of a held-out user, what that user would keep, and what is known of it."""

    user_id: str
    kind: str
    prompt: str
    written: str
    facts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """The users of one line.

    Attributes:
        write: makes occasions.
        kinds: of prompts that everybody asks in.
        unseen_kinds: of prompts that held-out users alone ask in.
        users: that are published.
        heldout: that are not.
        habits: and their shares.
        newest: how long before now the last interaction lies at least.
        spread: from the first interaction to the last.
        label: tells crowds of one line apart.
    """

    tenant: str
    write: Writer
    kinds: tuple[str, ...]
    users: int
    heldout: int
    unseen_kinds: tuple[str, ...] = ()
    domain: str = DEFAULT_DOMAIN
    habits: tuple[tuple[Habit, float], ...] = HABITS
    seed: int = 1
    newest: timedelta = timedelta(minutes=1)
    spread: timedelta = timedelta(days=6)
    label: str = ""

    def published(self, now: datetime) -> TenantScenario:
        """Return the users whose interactions are published."""
        people = tuple(self._person(number, now) for number in range(self.users))
        return TenantScenario(tenant=self.tenant, people=people, heldout=(), domain=self.domain)

    def questions(self, *, each: int = 1) -> tuple[Question, ...]:
        """Return what held-out users ask, ``each`` times, kinds in turn."""
        kinds = (*self.kinds, *self.unseen_kinds)
        found = []
        for number in range(self.users, self.users + self.heldout):
            rng = self._source(number)
            habit, other = pick(rng, self.habits), rng.random()
            for turn in range(each):
                kind = kinds[(number + turn) % len(kinds)]
                occasion = self.write(rng, kind)
                found.append(
                    Question(
                        user_id=self._name(number),
                        kind=kind,
                        prompt=mistyped(rng, occasion.prompt, occasion.facts),
                        written=_kept(occasion, habit, other),
                        facts=occasion.facts,
                    )
                )
        return tuple(found)

    def _person(self, number: int, now: datetime) -> Person:
        rng = self._source(number)
        habit, other = pick(rng, self.habits), rng.random()
        moments = sorted(now - self.newest - self.spread * rng.random() for _ in range(pick(rng, TURNS)))
        turns = [
            self._turn(rng, habit, other, event_id=f"{self._name(number)}-{position}", at=moment)
            for position, moment in enumerate(moments)
        ]
        return Person(user_id=self._name(number), turns=tuple(turns))

    def _turn(self, rng: random.Random, habit: Habit, other: float, *, event_id: str, at: datetime) -> Turn:
        occasion = self.write(rng, rng.choice(self.kinds))
        kept = _kept(occasion, habit, other)
        outcome = Outcome.ACCEPTED if habit is Habit.CARELESS else pick(rng, OUTCOMES)
        return Turn(
            event_id=event_id,
            occurred_at=at,
            prompt=mistyped(rng, occasion.prompt, occasion.facts),
            shown=kept if outcome is Outcome.ACCEPTED else occasion.shown,
            outcome=outcome,
            final=None if outcome is Outcome.REJECTED else kept,
        )

    def _name(self, number: int) -> str:
        return "-".join(
            part for part in (self.tenant, self.domain, self.label, f"{self.seed}", f"{number:04d}") if part
        )

    def _source(self, number: int) -> random.Random:
        return random.Random(hashlib.sha256(self._name(number).encode()).digest())  # noqa: S311  # not a secret


def _kept(occasion: Occasion, habit: Habit, other: float) -> str:
    if habit is Habit.FOLLOWS:
        return occasion.own
    if habit is Habit.CARELESS:
        return occasion.shown
    return occasion.others[int(other * len(occasion.others))]


def mistyped(rng: random.Random, prompt: str, facts: Mapping[str, str]) -> str:
    """Return a prompt in which, now and then, two letters of a word that says nothing are swapped."""
    if rng.random() >= MISTYPED:
        return prompt
    known = " ".join(facts.values()).lower()
    words = [found for found in _LONG_WORD.finditer(prompt) if found.group() not in known]
    if not words:
        return prompt
    at = rng.choice(words).start() + 1
    return prompt[:at] + prompt[at + 1] + prompt[at] + prompt[at + 2 :]


def pick(rng: random.Random, weighted: tuple[tuple[Chosen, float], ...]) -> Chosen:
    """Return one of the values, by their weights."""
    return rng.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]
