"""Briefs that an invented studio's people turn into image prompts, in a style that moves in three steps."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from streams.demo.recipes.people import Crowd, Occasion

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from streams.demo.recipes.people import Writer

TENANT = "tarn-studio"
STUDIO, CLASSIC = "studio", "classic"  # lines
BRIEF, CLIENT, STATEMENT = (
    "brief",
    "client",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone

SUBJECTS = (
    "a jazz night", "a bicycle race", "a flea market", "a lighthouse", "a night train", "a tea house", "a book fair",
    "a ferry", "an orchard", "a chess club", "a bakery", "an ice rink", "a choir", "a kite festival",
)  # fmt: skip
PLACES = (
    "Lisbon", "Bergen", "Trieste", "Tallinn", "Galway", "Ghent", "Malmo", "Porto", "Riga", "Turku", "Verona", "Basel",
)  # fmt: skip
MOODS = ("cheerful", "quiet", "bold", "dreamy", "wintry", "festive")

# One way to write an image prompt for each step, the oldest first.
STEPS: tuple[Callable[[str, str, str], str], ...] = (
    lambda subject, place, mood: f"Watercolor: {subject} in {place}, {mood} and bright | soft light",
    lambda subject, place, mood: f"Sketch: {mood} scene of {subject} in {place} | rough paper",
    lambda subject, place, mood: f"[Paper] {mood} scene of {subject} in {place} [long shadows]",
)
# When each step's people wrote, in days before now, and how long the studio then keeps interactions.
NEWEST_DAYS = (18, 9, 0)
RETENTION_DAYS = (30, 14, 6)
SPREAD_DAYS = 2


def writer_of(step: int) -> Writer:
    """Return what writes as the studio does in a step (0 is the oldest)."""

    def write(rng: random.Random, kind: str) -> Occasion:
        subject, place, mood = rng.choice(SUBJECTS), rng.choice(PLACES), rng.choice(MOODS)
        prompt = {
            BRIEF: f"Brief: {subject} in {place}. Mood: {mood}.\nImage prompt:",
            CLIENT: f"The client wants a {mood} poster of {subject}, {place}.\nImage prompt:",
            STATEMENT: f"Write an image prompt for a {mood} picture of {subject} in {place}.",
        }[kind]
        return Occasion(
            prompt=prompt,
            own=STEPS[step](subject, place, mood),
            others=(
                f"oil painting of {subject}, {place}, masterpiece, 8k",
                f"{subject.capitalize()}. {place}. Photo.",
                f"{mood} {subject}, trending, sharp focus",
            ),
            shown=rng.choice(
                (
                    "A beautiful image.",
                    f"Sure! Here is an image of {subject}.",
                    "I cannot draw, but I can describe it.",
                )
            ),
            facts={"subject": subject, "place": place, "mood": mood},
        )

    return write


def crowd(step: int, *, users: int, heldout: int, line: str = STUDIO) -> Crowd:
    """Return the people who wrote on one line in one step of the studio's style."""
    return Crowd(
        tenant=TENANT,
        domain=line,
        write=writer_of(step),
        kinds=(BRIEF, CLIENT),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
        newest=timedelta(days=NEWEST_DAYS[step], minutes=1),
        spread=timedelta(days=SPREAD_DAYS),
        label=f"step{step + 1}",
    )
