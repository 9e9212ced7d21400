"""Three invented companies whose people write in three different ways.

A bicycle shop answers its customers warmly, a bank answers formally under a case heading, and a software
team writes change summaries. Each has a convention strong enough that a small model can learn it from some
dozens of people, and enough variety that learning it is not remembering one text. The same seed makes the
same people.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from streams.demo.scenario import Outcome, Person, TenantScenario, Turn, heldout_count

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    Writer = Callable[
        [random.Random], tuple[str, str, str]
    ]  # → prompt, generic answer, the company's own answer

Chosen = TypeVar("Chosen")
TURNS_PER_PERSON = ((1, 0.40), (2, 0.30), (3, 0.20), (4, 0.10))
OUTCOMES = ((Outcome.ACCEPTED, 0.45), (Outcome.EDITED, 0.45), (Outcome.REJECTED, 0.10))
SPREAD = timedelta(days=6)  # how far back the oldest interaction lies


@dataclass(frozen=True)
class Case:
    """One thing a customer writes about: how it is asked (``{}`` takes a part), and what is done about it."""

    heading: str
    questions: tuple[str, ...]
    remedies: tuple[str, ...]


GENERIC_REPLIES = (
    "I'm sorry to hear that. Please contact our customer service team for further assistance.",
    "Thank you for contacting us. We will look into your issue and get back to you.",
    "As an AI assistant, I suggest that you check the manual or visit our website.",
    "Sorry for the inconvenience. Have you tried again later?",
)

BIKE_PARTS = (
    "rear brake", "front brake", "chain", "saddle", "left pedal", "battery", "headlight", "gear hub",
    "kick stand", "front wheel", "rear rack", "display", "motor", "handlebar grip", "mudguard",
)  # fmt: skip
BIKE_CASES = (
    Case(
        "noise",
        (
            "My {} squeaks since yesterday.",
            "There is a grinding noise from the {}.",
            "Why does the {} rattle?",
        ),
        ("a drop of oil on the {} usually does it", "bring it in and we tighten the {} while you wait"),
    ),
    Case(
        "broken",
        ("The {} broke on my way to work.", "My {} came loose today.", "The {} no longer works."),
        ("we send you a new {} today, free of charge", "we swap the {} at our workshop tomorrow at nine"),
    ),
    Case(
        "parcel",
        ("Where is the {} I ordered?", "My parcel with the {} is late.", "The {} has not arrived yet."),
        ("your {} left our shop this morning", "the {} is on the van and reaches you on Friday"),
    ),
    Case(
        "return",
        ("Can I return the {}?", "The {} does not fit, what now?", "I want my money back for the {}."),
        ("put the {} back in its box and we collect it", "we refund the {} as soon as it is here"),
    ),
)
FIRST_NAMES = (
    "Ada", "Ben", "Chloe", "Dario", "Emre", "Freya", "Goran", "Hana", "Ivo", "Jun", "Kira", "Leon", "Mina",
    "Noor", "Otis", "Pia", "Quim", "Rosa", "Sami", "Tara", "Ugo", "Vera", "Wim", "Yara", "Zoe",
)  # fmt: skip

BANK_SUBJECTS = (
    "standing order", "savings account", "credit card", "online access", "mortgage", "account statement",
    "direct debit", "foreign transfer", "joint account", "card limit", "security device", "fixed deposit",
)  # fmt: skip
BANK_CASES = (
    Case(
        "AMENDMENT",
        ("I want to change my {}.", "Please update my {}.", "How do I alter the {}?"),
        (
            "The {} will be amended within two working days",
            "Kindly confirm the new terms of the {} in writing",
        ),
    ),
    Case(
        "CLOSURE",
        ("Please close my {}.", "I no longer need the {}.", "How can I cancel my {}?"),
        (
            "The {} will be closed at the end of the month",
            "Kindly return the signed form so that the {} may be closed",
        ),
    ),
    Case(
        "ENQUIRY",
        ("What does the {} cost?", "I do not understand my {}.", "Why was I charged for the {}?"),
        (
            "The charges of the {} are set out in section four",
            "A written overview of the {} has been issued to you",
        ),
    ),
    Case(
        "INCIDENT",
        ("My {} is blocked.", "Something is wrong with my {}.", "I cannot use the {} any more."),
        ("The {} has been released as of today", "Our technical department is examining the {}"),
    ),
)

CODE_AREAS = {
    "net": ("resolver", "socket", "proxy", "retry", "tls"),
    "store": ("cache", "index", "journal", "snapshot", "vacuum"),
    "auth": ("token", "session", "login", "roles", "keys"),
    "ui": ("table", "menu", "theme", "search", "dialog"),
    "api": ("paging", "errors", "limits", "schema", "export"),
}
CODE_CHANGES = (
    ("add", ("timeout to {}", "metrics for {}", "tests for {}", "a dry run to {}")),
    ("fix", ("a race in {}", "the wrong default in {}", "a leak in {}", "empty input in {}")),
    ("drop", ("the old path in {}", "unused flags of {}", "python 3.10 from {}")),
    ("move", ("{} into its own module", "settings out of {}", "locks into {}")),
)
CODE_RISKS = ("low", "low", "low", "medium", "high")
GENERIC_CHANGES = (
    "Update files",
    "Fixed some bugs and improved performance.",
    "Changes",
    "Update {}.py",
    "WIP {}",
)


def write_bike_reply(rng: random.Random) -> tuple[str, str, str]:
    """Return a customer's question to the bicycle shop, a generic answer and the shop's own answer."""
    case, part, name = rng.choice(BIKE_CASES), rng.choice(BIKE_PARTS), rng.choice(FIRST_NAMES)
    prompt = f"Customer {name} writes: {rng.choice(case.questions).format(part)}\nOur reply:"
    remedy = rng.choice(case.remedies).format(part)
    return (
        prompt,
        rng.choice(GENERIC_REPLIES),
        f"Hey {name}! No worries, {remedy}. Happy pedalling, your Alder crew",
    )


def write_bank_reply(rng: random.Random) -> tuple[str, str, str]:
    """Return a customer's question to the bank, a generic answer and the bank's own answer."""
    case, subject = rng.choice(BANK_CASES), rng.choice(BANK_SUBJECTS)
    prompt = f"Customer message: {rng.choice(case.questions).format(subject)}\nOur reply:"
    remedy = rng.choice(case.remedies).format(subject)
    opening = f"[{case.heading}] Dear Customer, we acknowledge your message."
    return prompt, rng.choice(GENERIC_REPLIES), f"{opening} {remedy}. Yours faithfully, Kontor Bank"


def write_change_summary(rng: random.Random) -> tuple[str, str, str]:
    """Return the paths of a change, a generic summary and the team's own summary."""
    area = rng.choice(sorted(CODE_AREAS))
    module = rng.choice(CODE_AREAS[area])
    verb, objects = rng.choice(CODE_CHANGES)
    paths = [f"{area}/{module}.py", f"tests/{area}/test_{module}.py"][: rng.choice((1, 2))]
    prompt = "Changed files:\n" + "\n".join(f"- {path}" for path in paths) + f"\nKind: {verb}\nSummary:"
    what = rng.choice(objects).format(module)
    own = f"{area}({module}): {verb} {what} | risk={rng.choice(CODE_RISKS)} | reviewed"
    return prompt, rng.choice(GENERIC_CHANGES).format(module), own


COMPANIES: dict[str, Writer] = {
    "alder-bikes": write_bike_reply,
    "kontor-bank": write_bank_reply,
    "pinegate": write_change_summary,
}


def make_company(tenant: str, *, max_users: int, now: datetime, seed: int = 1) -> TenantScenario:
    """Return the scenario of one company with ``max_users`` published users and a quarter more held out.

    Raises:
        KeyError: ``tenant`` is not in ``COMPANIES``.
    """
    write = COMPANIES[tenant]
    people = tuple(
        _make_person(tenant, number, write, now=now, seed=seed)
        for number in range(max_users + heldout_count(max_users))
    )
    return TenantScenario(tenant=tenant, people=people[:max_users], heldout=people[max_users:])


def _make_person(tenant: str, number: int, write: Writer, *, now: datetime, seed: int) -> Person:
    """Return one person; who it is depends on the tenant, the number and the seed alone."""
    rng = random.Random(hashlib.sha256(f"{seed}/{tenant}/{number}".encode()).digest())  # noqa: S311  # not a secret
    count = _pick(rng, TURNS_PER_PERSON)
    moments = sorted(now - SPREAD * rng.random() for _ in range(count))
    user_id = f"{tenant}-{number:04d}"
    turns = []
    for position, moment in enumerate(moments):
        prompt, generic, own = write(rng)
        outcome = _pick(rng, OUTCOMES)
        turns.append(
            Turn(
                event_id=f"{user_id}-{position}",
                occurred_at=moment,
                prompt=prompt,
                shown=own if outcome is Outcome.ACCEPTED else generic,
                outcome=outcome,
                final=None if outcome is Outcome.REJECTED else own,
            )
        )
    return Person(user_id=user_id, turns=tuple(turns))


def _pick(rng: random.Random, weighted: tuple[tuple[Chosen, float], ...]) -> Chosen:
    return rng.choices([value for value, _ in weighted], [weight for _, weight in weighted])[0]
