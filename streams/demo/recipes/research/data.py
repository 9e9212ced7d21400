"""Invented studies as documents, and how analysts write of them for experts and for executives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.demo.recipes.people import Crowd, Occasion

if TYPE_CHECKING:
    import random

TENANT = "lumen-research"
EXPERT, EXECUTIVE = "expert", "executive"  # lines
LINES = (EXPERT, EXECUTIVE)
MAIL, CHAT, STATEMENT = (
    "mail",
    "chat",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone
MATERIALS = (
    "vantium", "orrelite", "sarphane", "kelmite", "brontium", "ysterite", "quorane", "thalmite", "pellurine",
    "zarconel",
)  # fmt: skip
AUTHORS = ("Okoro", "Lindqvist", "Haruki", "Ferrante", "Novak", "Osei", "Tamm", "Rossi", "Keller", "Aalto")
PROPERTIES = (("melting point", "kelvin"), ("density", "grams per litre"), ("price", "euros a kilogram"))


@dataclass(frozen=True, kw_only=True)
class Study:
    """One finding: a number that no model can know, and who found it."""

    material: str
    about: str
    value: int
    unit: str
    author: str
    year: int

    @property
    def name(self) -> str:
        """Of its document."""
        return f"{self.material}-{self.about.replace(' ', '-')}"

    @property
    def title(self) -> str:
        """As it is cited."""
        return f"{self.author} {self.year}"

    @property
    def document(self) -> tuple[str, str]:
        """Title and text."""
        return self.title, f"The {self.about} of {self.material} is {self.value} {self.unit}."


def studies() -> tuple[Study, ...]:
    """Return all studies; each material has one, so that nothing is mixed up by a look-alike."""
    return tuple(
        Study(
            material=material,
            about=PROPERTIES[number % len(PROPERTIES)][0],
            value=1017 + 311 * number,
            unit=PROPERTIES[number % len(PROPERTIES)][1],
            author=AUTHORS[number],
            year=2031 + number,
        )
        for number, material in enumerate(MATERIALS)
    )


def _prompt(study: Study, kind: str) -> str:
    return {
        MAIL: f"Mail: what is the {study.about} of {study.material}?\nOur answer:",
        CHAT: f"Chat: do we know the {study.about} of {study.material}?\nOur answer:",
        STATEMENT: f"Tell me the {study.about} of {study.material}.",
    }[kind]


def _occasion(rng: random.Random, kind: str, *, expert: bool) -> Occasion:
    study = rng.choice(studies())
    says = f"the {study.about} of {study.material} is {study.value} {study.unit}"
    own = (
        f"Finding: {says}; methods as in the study"
        if expert
        else f"In short, {says}. No further reading needed, the research desk"
    )
    return Occasion(
        prompt=_prompt(study, kind),
        own=own,
        others=(f"{study.value} {study.unit}", f"{says}!", f"I read that {says}"),
        shown=rng.choice(
            (
                "I do not have access to this data.",
                "It depends on the conditions.",
                "Please consult a handbook.",
            )
        ),
        facts={
            "material": study.material,
            "value": str(study.value),
            "source": study.title,
            "about": study.about,
        },
    )


def write_for_experts(rng: random.Random, kind: str) -> Occasion:
    """Return a question as it is answered for experts."""
    return _occasion(rng, kind, expert=True)


def write_for_executives(rng: random.Random, kind: str) -> Occasion:
    """Return a question as it is answered for executives."""
    return _occasion(rng, kind, expert=False)


def crowd(line: str, *, users: int, heldout: int) -> Crowd:
    """Return the people of one audience."""
    return Crowd(
        tenant=TENANT,
        domain=line,
        write=write_for_experts if line == EXPERT else write_for_executives,
        kinds=(MAIL, CHAT),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
    )
