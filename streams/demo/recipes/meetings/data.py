"""Meeting notes of two invented houses, as they were said and as they came out of a transcript.

Each house has names that a transcript gets wrong in the same way again and again. Most people who edit put them right,
a quarter leave them, and a few keep whatever is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.people import Crowd, Occasion

if TYPE_CHECKING:
    import random

    from streams.demo.recipes.people import Writer

CLINIC, YARD = "marrow-clinic", "brill-yard"
PART, TOPIC, STATEMENT = (
    "part",
    "topic",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone
# what is meant, and how it comes out
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    CLINIC: (
        ("Orbivance", "or be vance"),
        ("Zephyrol", "zeffer all"),
        ("Quantalis", "quanta list"),
        ("CardioLux", "cardio lucks"),
        ("Vertrigan", "vertical gan"),
    ),
    YARD: (
        ("Keelvex", "keel vex"),
        ("Tormarine", "tour marine"),
        ("HullSight", "hull site"),
        ("Draftora", "draft aura"),
        ("Mastrelle", "mass trell"),
    ),
}
WRONG = 0.8  # of names come out wrong
FILLER = (
    "the team talked about how long it takes before the next quarter",
    "somebody writes it down and we look again in two weeks",
    "the budget is small and the plan was made in a hurry",
    "nobody expects the numbers to get worse",
    "who owns what when people call at night",
    "we agreed to ask the supplier once more",
    "the training for new colleagues starts in May",
)
LINKS = ("and then", "because of", "together with", "so we need", "next to")


def writer_of(tenant: str) -> Writer:
    """Return what makes the notes of one house."""
    names = NAMES[tenant]

    def write(rng: random.Random, kind: str) -> Occasion:
        said, came, told = [], [], []
        for _ in range(2):
            text, link = rng.choice(FILLER), rng.choice(LINKS)
            meant, wrong = rng.choice(names)
            heard = wrong if rng.random() < WRONG else meant
            said += [text, link, meant]
            came += [text, link, heard]
            told.append(meant)
        end = rng.choice(FILLER)
        number = rng.randint(2, 60)
        prompt = {
            PART: f"Transcript of meeting {number}, part {rng.randint(1, 9)}.\nNotes:",
            TOPIC: f"Meeting {number} about {rng.choice(('plans', 'orders', 'people', 'costs'))}.\nNotes:",
            STATEMENT: f"Write down what was said in meeting {number}.",
        }[kind]
        right, heard = " ".join([*said, end]), " ".join([*came, end])
        return Occasion(
            prompt=prompt,
            own=right,
            others=(heard, heard, f"{heard} and so on"),
            shown=heard,
            facts={"said": right, "came": heard, "names": " ".join(told)},
        )

    return write


def crowd(tenant: str, *, users: int, heldout: int) -> Crowd:
    """Return the people of one house."""
    return Crowd(
        tenant=tenant,
        write=writer_of(tenant),
        kinds=(PART, TOPIC),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
    )
