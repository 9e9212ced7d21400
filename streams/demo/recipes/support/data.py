"""What people of an invented multinational ask their assistant, on three lines, one of them in two regions.

Legal is stiff, finance is terse, operations is warm in Leeds and respectful in Osaka: opposite tones under one roof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.people import Crowd, Occasion

if TYPE_CHECKING:
    import random

    from streams.demo.recipes.people import Writer

TENANT = "orbis-group"
LEGAL, FINANCE, LEEDS, OSAKA = "legal", "finance", "operations-leeds", "operations-osaka"
LINES = (LEGAL, FINANCE, LEEDS, OSAKA)
MAIL, CHAT, STATEMENT = (
    "mail",
    "chat",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone
NAMES = (
    "Ada", "Ben", "Chloe", "Dario", "Emre", "Freya", "Goran", "Hana", "Ivo", "Jun", "Kira", "Leon", "Mina", "Noor",
    "Otis", "Pia", "Rosa", "Sami", "Tara", "Vera", "Wim", "Yara", "Zoe",
)  # fmt: skip
LEGAL_CASES = (
    ("the lease of the depot", "the notice period is three months"),
    ("the supplier contract", "clause nine allows a review each spring"),
    ("the photo licence", "the licence covers print and screen"),
    ("the data request", "the answer is due within one month"),
    ("the warranty of the pumps", "the warranty runs for two years"),
)
FINANCE_CASES = (
    ("the travel bill", "paid with the next run"),
    ("the March invoice", "open, waiting for a cost centre"),
    ("the refund of the deposit", "booked on Monday"),
    ("the card statement", "matched, nothing to do"),
    ("the budget of the fair", "a third is left"),
)
OPERATIONS_CASES = (
    ("the conveyor", "a fitter is on the way"),
    ("the late pallet", "it leaves on the next truck"),
    ("the broken scanner", "a spare one is in the office"),
    ("the night shift", "two more people are found"),
    ("the cold room", "the door seal is changed today"),
    ("the spare keys", "they hang at gate two"),
    ("the forklift", "it comes back from the test at noon"),
    ("the empty crates", "we collect them after lunch"),
    ("the loading ramp", "it is free from ten"),
    ("the label printer", "a new roll is in it"),
)
SHOWN = (
    "I'm sorry to hear that. Please contact the responsible department.",
    "Thank you for your question. I will look into it.",
    "As an AI assistant, I cannot access this information.",
)


def _prompt(kind: str, name: str, about: str) -> str:
    return {
        MAIL: f"Mail from {name}: what about {about}?\nOur answer:",
        CHAT: f"Question of {name}: any news on {about}?\nOur answer:",
        STATEMENT: f"Please answer {name}, who asks for {about}.",
    }[kind]


def _others(name: str, says: str) -> tuple[str, ...]:
    return (f"{name}, {says}.", f"FYI: {says}", f"{says.capitalize()}! Regards")


def write_legal(rng: random.Random, kind: str) -> Occasion:
    """Return a question to the legal line."""
    (about, says), name = rng.choice(LEGAL_CASES), rng.choice(NAMES)
    return Occasion(
        prompt=_prompt(kind, name, about),
        own=f"[Legal] We note the following: {says}. This is no legal advice",
        others=_others(name, says),
        shown=rng.choice(SHOWN),
        facts={"name": name, "says": says},
    )


def write_finance(rng: random.Random, kind: str) -> Occasion:
    """Return a question to the finance line."""
    (about, says), name = rng.choice(FINANCE_CASES), rng.choice(NAMES)
    return Occasion(
        prompt=_prompt(kind, name, about),
        own=f"Status: {says} | finance desk",
        others=_others(name, says),
        shown=rng.choice(SHOWN),
        facts={"name": name, "says": says},
    )


def write_leeds(rng: random.Random, kind: str) -> Occasion:
    """Return a question to operations in Leeds."""
    (about, says), name = rng.choice(OPERATIONS_CASES), rng.choice(NAMES)
    return Occasion(
        prompt=_prompt(kind, name, about),
        own=f"Hiya {name}! No worries, {says}. Cheers, your Leeds crew",
        others=_others(name, says),
        shown=rng.choice(SHOWN),
        facts={"name": name, "says": says},
    )


def write_osaka(rng: random.Random, kind: str) -> Occasion:
    """Return a question to operations in Osaka."""
    (about, says), name = rng.choice(OPERATIONS_CASES), rng.choice(NAMES)
    return Occasion(
        prompt=_prompt(kind, name, about),
        own=f"Dear {name}, thank you for your message: {says}. With respect, the Osaka team",
        others=_others(name, says),
        shown=rng.choice(SHOWN),
        facts={"name": name, "says": says},
    )


def policy_texts(line: str) -> dict[str, tuple[str, str]]:
    """Return what is approved for a line: title and text by name; what the house says of each case."""
    cases = {LEGAL: LEGAL_CASES, FINANCE: FINANCE_CASES}.get(line, OPERATIONS_CASES)
    return {
        f"{line}-{number}": (about[0].upper() + about[1:], f"About {about}: {says}.")
        for number, (about, says) in enumerate(cases)
    }


WRITERS: dict[str, Writer] = {
    LEGAL: write_legal,
    FINANCE: write_finance,
    LEEDS: write_leeds,
    OSAKA: write_osaka,
}


def crowd(line: str, *, users: int, heldout: int) -> Crowd:
    """Return the users of one line."""
    return Crowd(
        tenant=TENANT,
        domain=line,
        write=WRITERS[line],
        kinds=(MAIL, CHAT),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
    )
