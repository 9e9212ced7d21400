"""Synthetic questions about made-up facts, with the facts as notes before them, answered in a tenant's style.

So an adapter learns to take values from notes and to say them in the tenant's manner, in the very form in which the
gateway sends passages (``personalization.memory.rendering``). The facts are invented, with values that nobody knows: a
model that could answer without its notes would learn to leave them alone (context-parametric inversion, arXiv
2410.10796). Of the pairs a share holds another thing's notes alone and is answered with that they do not say (as in
RAFT, arXiv 2403.10131). No tenant's document is ever in them, so they outlive none.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from personalization.memory.rendering import NOT_THERE, note, with_notes
from personalization.styles.contents import person
from personalization.styles.synthesis import SyntheticPair, in_style

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard

WITHOUT: Final = 0.2  # of the pairs: the notes are about something else
OTHERS: Final = (
    0,
    0,
    0,
    1,
    1,
    2,
)  # notes about other things beside the right one; a gateway sends one by default
_FIRST_DAY: Final = date(2024, 1, 1)
_DAYS: Final = 1_000
# Question, note and answer about a thing; the answer is in small letters and has no stop.
_FACTS: Final = (
    ("How long is the warranty of the {}?", "The warranty of the {} lasts {} months.", "the warranty lasts {} months"),
    ("What does the {} cost?", "The {} costs {} euros, tax included.", "it costs {} euros"),
    ("How far is the {} from the station?", "From the station to the {} it is {} steps.", "it is {} steps away"),
    ("How much does the {} weigh?", "Without its case the {} weighs {} grams.", "it weighs {} grams"),
    ("How many days in advance must I book the {}?", "The {} must be booked {} days in advance.", "{} days in advance"),
    ("Which room is the {} in?", "You find the {} in room {}.", "it is in room {}"),
    ("How many people may use the {}?", "At most {1} people may use the {0} at once.", "at most {} people"),
    ("How often is the {} checked?", "The {} is checked every {} weeks.", "it is checked every {} weeks"),
)  # fmt: skip
_KINDS: Final = ("", "lamp", "pass", "room", "plan", "kit", "printer")


@dataclass(frozen=True, kw_only=True)
class _Fact:
    question: str
    note: str
    answer: str
    thing: str


def noted_pairs(card: StyleCard, *, count: int, seed: int) -> tuple[SyntheticPair, ...]:
    """Return pairs whose prompts carry notes and whose answers take their value from them.

    Args:
        card: a released card.
        count: how many pairs.
        seed: public; another one makes other things and values.
    """
    rng = random.Random(f"notes/{card.digest()}/{seed}")  # noqa: S311  # public text, no secret
    pairs = []
    for _ in range(count):
        fact = _fact(rng)
        missing = rng.random() < WITHOUT
        told = [_fact(rng).note for _ in range(rng.choice(OTHERS) or int(missing))]
        if not missing:
            told.insert(rng.randint(0, len(told)), fact.note)
        notes = [note(rng.choice(("", "Handbook", "Notes of the team")), "", one, _day(rng)) for one in told]
        answer = NOT_THERE[0].lower() + NOT_THERE[1:-1] if missing else fact.answer
        pairs.append(
            SyntheticPair(
                prompt=with_notes(fact.question, notes),
                answer=in_style(card, answer, (fact.thing,), rng),
            )
        )
    return tuple(pairs)


def _fact(rng: random.Random) -> _Fact:
    question, told, answer = rng.choice(_FACTS)
    thing = " ".join(
        part for part in (person(rng) + rng.choice(("", "o", "ix", " 3")), rng.choice(_KINDS)) if part
    )
    value = rng.randint(3, 95)
    return _Fact(
        question=question.format(thing),
        note=told.format(thing, value),
        answer=answer.format(value),
        thing=thing,
    )


def _day(rng: random.Random) -> date:
    return _FIRST_DAY + timedelta(days=rng.randrange(_DAYS))
