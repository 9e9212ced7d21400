"""A harbour's facts, which change while people ask, and how its people answer.

Every fact has a value that no model can know, and several versions of it. Interactions were recorded while the first
versions were true, so an adapter that remembered them would answer with what is out of date.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.demo.recipes.people import Crowd, Occasion

if TYPE_CHECKING:
    from streams.demo.recipes.people import Question

TENANT = "quay-desk"
MAIL, CHAT, STATEMENT = (
    "mail",
    "chat",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone
ISLES = (
    "Lunna", "Varsay", "Trondra", "Moyle", "Fethalay", "Ormsay", "Selkie", "Brisay", "Hasco", "Noltland", "Uyea",
    "Papil",
)  # fmt: skip
UPDATED, REMOVED = ISLES[:5], ISLES[5:8]  # in the second part of the run; the others stay as they are


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What is true of one isle's ferry: its pier, as a word and a number that nothing else uses."""

    isle: str
    pier: str

    @property
    def name(self) -> str:
        """Of its document."""
        return f"ferry-{self.isle.lower()}"

    @property
    def document(self) -> tuple[str, str]:
        """Title and text."""
        return f"Ferry to {self.isle}", f"The ferry to {self.isle} leaves from pier {self.pier}."


def facts(version: int) -> dict[str, Fact]:
    """Return what is true in a version, by isle: all of them in the first, in the second some anew and some gone."""
    found = {}
    for number, isle in enumerate(ISLES):
        if version > 1 and isle in REMOVED:
            continue
        changed = version > 1 and isle in UPDATED
        found[isle] = Fact(isle=isle, pier=_pier(number + (len(ISLES) if changed else 0)))
    return found


def _pier(number: int) -> str:
    """Return a pier's name; each number has another one."""
    return f"{'ABCDEFGH'[number % 8]}{11 + 3 * number}"


def write_answer(rng: random.Random, kind: str) -> Occasion:
    """Return a question for a ferry while the first versions are true."""
    fact = facts(1)[rng.choice(ISLES)]
    says = f"the ferry to {fact.isle} leaves from pier {fact.pier}"
    prompt = {
        MAIL: f"Mail: which pier does the ferry to {fact.isle} leave from?\nOur answer:",
        CHAT: f"Chat: where do I board the ferry to {fact.isle}, which pier?\nOur answer:",
        STATEMENT: f"Tell a guest the pier of the ferry to {fact.isle}.",
    }[kind]
    return Occasion(
        prompt=prompt,
        own=f"Ahoy! {says[0].upper()}{says[1:]}. Fair winds, your quay desk",
        others=(f"{fact.isle}: pier {fact.pier}", f"pier {fact.pier}, thanks for asking", f"FYI {says}"),
        shown=rng.choice(
            (
                "Please check the timetable of the ferry company.",
                "I do not have access to the current piers.",
                "Ferries usually leave from the main pier.",
            )
        ),
        facts={"isle": fact.isle},
    )


def crowd(*, users: int, heldout: int) -> Crowd:
    """Return the people of the desk."""
    return Crowd(
        tenant=TENANT,
        write=write_answer,
        kinds=(MAIL, CHAT),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
    )


def isles_of(questions: tuple[Question, ...], isles: tuple[str, ...]) -> tuple[Question, ...]:
    """Return the questions that are about some isles."""
    return tuple(asked for asked in questions if asked.facts["isle"] in isles)
