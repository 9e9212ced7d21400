"""Synthetic questions about made-up facts, with the facts as notes before them, answered in a tenant's style.

So an adapter learns to take from notes what they say and to say it in the tenant's manner, in the very form in which
the gateway sends passages (``personalization.memory.rendering``), under the tenant's own form of prompts. Facts are
clauses, codes and numbers: of numbers alone an adapter learns that every answer is one. Most answers say a note word
for word, as a small model does best, others the short of it. All is invented, with values that nobody knows: a model
that could answer without its notes would learn to leave them alone (context-parametric inversion, arXiv 2410.10796). Of
the pairs a share holds another thing's notes alone and is answered with that they do not say (as in RAFT, arXiv
2403.10131). No tenant's document is ever in them, so they outlive none.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from personalization.memory.rendering import NOT_THERE, note, with_notes
from personalization.styles.contents import PublicContent, person
from personalization.styles.synthesis import SyntheticPair, drawn_beginning, drawn_last_line, in_style

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard

WITHOUT: Final = 0.12  # of the pairs: the notes are about something else
OTHERS: Final = (
    0,
    0,
    0,
    0,
    1,
    2,
)  # notes about other things beside the right one; a gateway sends one by default
SHORT: Final = 0.3  # of answers about numbers and codes say the short of it, not the note's own words
CLAUSES: Final = 0.5  # of facts are clauses
SIGNED: Final = 0.7  # of questions say who asks
_FIRST_DAY: Final = date(2024, 1, 1)
_DAYS: Final = 1_000
# No thing and no text of these is one of the recipes' or of the benchmark of memory, which measure what comes of them;
# single words are (room, printer, contract, bill, free).
# Question, note and short answer about a thing and a value; the answer is in small letters and has no stop.
_NUMBERS: Final = (
    ("How long is the warranty of the {}?", "The warranty of the {} lasts {} months.", "the warranty lasts {} months"),
    ("What does the {} cost?", "The {} costs {} euros, tax included.", "it costs {} euros"),
    ("How far is the {} from the station?", "From the station to the {} it is {} steps.", "it is {} steps away"),
    ("How much does the {} weigh?", "Without its case the {} weighs {} grams.", "it weighs {} grams"),
    ("How many days in advance must I book the {}?", "The {} must be booked {} days in advance.", "{} days in advance"),
    ("How many people may use the {}?", "At most {1} people may use the {0} at once.", "at most {} people"),
    ("How often is the {} checked?", "The {} is checked every {} weeks.", "it is checked every {} weeks"),
    ("How long is the {}?", "From end to end the {} measures {} centimetres.", "it is {} centimetres long"),
)  # fmt: skip
_CODES: Final = (
    ("Which room is the {} in?", "You find the {} in room {}.", "it is in room {}"),
    ("Where is the {} kept, on which shelf?", "The {} is kept on shelf {}.", "it is kept on shelf {}"),
    ("Under which code is the {} ordered?", "The {} is ordered under the code {}.", "its code is {}"),
    ("Which key opens the {}?", "The {} opens with key {}.", "key {} opens it"),
)  # fmt: skip
_ABOUT: Final = (
    "What is known of the {}?", "Is there something new with the {}?", "How is it with the {}?", "The {}, please.",
    "Please tell me what we say on the {}.", "May I ask after the {}?",
)  # fmt: skip
_TOLD: Final = ("The {}: {}.", "On the {}: {}.", "With the {} it is like this: {}.", "{}: {}.")
_WHO: Final = (
    "a colleague", "the workshop", "the office", "our driver", "the new team", "somebody", "the landlord", "the bank",
)  # fmt: skip
_DOES: Final = (
    "brings another one", "looks at it", "calls back", "collects it", "sends the papers", "checks it again",
    "repairs it", "signs it", "pays for it", "puts a list together", "asks for an offer", "cleans it",
)  # fmt: skip
_WHEN: Final = (
    "on Friday", "after breakfast", "this week", "at nine", "before noon", "within a year", "next month", "tomorrow",
    "each autumn", "by the end of June", "in four weeks", "every second day",
)  # fmt: skip
_STATES: Final = (
    "it lies in the cellar", "it stands beside the stairs", "it was moved to the second floor", "it is sold out",
    "it is free of charge", "only the manager may allow it", "the cover is missing", "a new handle is ordered",
    "it closes at seven", "half of it is paid", "it waits for a signature", "nobody has asked for it",
    "it is allowed for visitors too", "the label is wrong", "it runs without a break", "two of them are left",
    "the contract ends in May", "there is a second one upstairs",
)  # fmt: skip
_LEADS: Final = ("From {}: ", "{} asks: ", "{}: ", "Question of {}. ", "For {}: ")
_KINDS: Final = ("", "lamp", "pass", "room", "plan", "kit", "printer", "contract", "bill", "van", "report")


@dataclass(frozen=True, kw_only=True)
class _Fact:
    question: str
    note: str
    answer: str
    thing: str


def noted_pairs(card: StyleCard, *, count: int, seed: int) -> tuple[SyntheticPair, ...]:
    """Return pairs whose prompts carry notes and whose answers take what they say from them.

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
        told = [_fact(rng) for _ in range(rng.choice(OTHERS) or int(missing))]
        if not missing:
            told.insert(rng.randint(0, len(told)), fact)
        notes = [note(_title(one, rng), "", one.note, _day(rng)) for one in told]
        answer = _unstopped(NOT_THERE) if missing else fact.answer
        asked = drawn_beginning(card, _asked(fact.question, answer, fact.thing, rng), rng)
        pairs.append(
            SyntheticPair(
                prompt=with_notes(asked.prompt + drawn_last_line(card, rng), notes),
                answer=in_style(card, answer, asked.names, rng),
            )
        )
    return tuple(pairs)


def _asked(question: str, answer: str, thing: str, rng: random.Random) -> PublicContent:
    """Return a question, mostly from somebody with a name, which a frame may copy rather than the thing's."""
    if rng.random() >= SIGNED:
        return PublicContent(prompt=question, answer=answer, names=(thing,))
    name = person(rng)
    lead = rng.choice(_LEADS).format(name)
    return PublicContent(prompt=lead + question, answer=answer, names=(name, thing), lead=lead, led=1)


def _fact(rng: random.Random) -> _Fact:
    thing = " ".join(
        part for part in (person(rng) + rng.choice(("", "o", "ix", " 3")), rng.choice(_KINDS)) if part
    )
    if rng.random() < CLAUSES:
        says = _clause(rng)
        told = rng.choice(_TOLD).format(thing, says)
        return _Fact(question=rng.choice(_ABOUT).format(thing), note=told, answer=says, thing=thing)
    if rng.random() < 0.5:  # as many numbers as codes
        (question, told, short), value = (
            rng.choice(_NUMBERS),
            str(rng.randint(3, 10 ** rng.choice((2, 3, 4)))),
        )
    else:
        (question, told, short), value = (
            rng.choice(_CODES),
            f"{rng.choice('CEGHKLNRTVWX')}{rng.randint(10, 99)}",
        )
    told = told.format(thing, value)
    answer = short.format(value) if rng.random() < SHORT else _unstopped(told)
    return _Fact(question=question.format(thing), note=told, answer=answer, thing=thing)


def _clause(rng: random.Random) -> str:
    if rng.random() < 0.4:  # a share of clauses
        return rng.choice(_STATES)
    return f"{rng.choice(_WHO)} {rng.choice(_DOES)} {rng.choice(_WHEN)}"


def _unstopped(sentence: str) -> str:
    """Return a sentence in small letters at its start and without its stop."""
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def _title(fact: _Fact, rng: random.Random) -> str:
    """Return what the document of a note is called: nothing, the thing itself, or where it was written."""
    return rng.choice(
        ("", f"The {fact.thing}", "Handbook", "Notes of the team", f"{person(rng)} {rng.randint(1990, 2045)}")
    )


def _day(rng: random.Random) -> date:
    return _FIRST_DAY + timedelta(days=rng.randrange(_DAYS))
