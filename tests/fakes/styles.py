"""Users with a common style, and cards made by hand."""

from __future__ import annotations

import random

from personalization.styles.card import StyleCard, StyleEntry
from personalization.styles.discovery import discover
from personalization.styles.families import Feature
from personalization.styles.votes import StyleText, UserTexts
from privacy.mechanisms.partition_selection import PartitionSelection

WORDS = (
    "quiet", "river", "stone", "lamp", "green", "table", "paper", "window", "garden", "winter", "coffee", "bridge",
    "cloud", "forest", "silver", "orange",
)  # fmt: skip


def said(rng: random.Random, words: int = 5) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def users_with_style(count: int, seed: int = 1) -> list[UserTexts]:
    """Users who write summaries such as ``TASK-481: river stone lamp (#12)``, a third of them ``NOTE: …``."""
    rng = random.Random(seed)
    users = []
    for _ in range(count):
        texts = []
        for _ in range(rng.choice((1, 2, 3))):
            head = "NOTE: " if rng.random() < 1 / 3 else f"TASK-{rng.randint(1, 9999)}: "
            texts.append(
                StyleText(
                    prompt=f"src/{rng.choice(WORDS)}.py", final=f"{head}{said(rng)} (#{rng.randint(1, 999)})"
                )
            )
        users.append(UserTexts(texts=tuple(texts)))
    return users


def users_without_style(count: int, seed: int = 1) -> list[UserTexts]:
    """Users each of whom writes in a way of their own."""
    rng = random.Random(seed)
    marks = "~^|=+_*<>/\\@%&$!?;"
    users = []
    for _ in range(count):
        head = "".join(rng.choice(marks) for _ in range(4))
        tail = "".join(rng.choice(marks) for _ in range(4))
        final = f"{head} {said(rng, rng.randint(1, 60))} {tail}"
        users.append(UserTexts(texts=(StyleText(prompt=said(rng, rng.randint(1, 30)), final=final),)))
    return users


def vote(noise_multiplier: float = 3.0, delta: float = 1e-6, unknown_keys: int = 64) -> PartitionSelection:
    return PartitionSelection(noise_multiplier=noise_multiplier, delta=delta, unknown_keys=unknown_keys)


def found(
    users,
    key: bytes = bytes(32),
    *,
    selection=None,
    edits=None,
    declared_users: int = 300,
    terms=False,
    glossary=(),
) -> StyleCard:
    return discover(
        users,
        selection or vote(),
        key,
        declared_users=declared_users,
        voters=max(1, len(users)),
        edits=edits,
        terms=terms,
        glossary=glossary,
    )


def entry(feature: Feature, key: str, share: float, **more) -> StyleEntry:
    return StyleEntry(feature=feature, key=key, share=share, sureness=more.pop("sureness", 4.0), **more)


def card_of(*entries: StyleEntry) -> StyleCard:
    return StyleCard(entries=entries, voters=312, noise_multiplier=3.0, delta=1e-6)


def framed(
    openings: dict[str, float], closings: dict[str, float] | None = None, *more: StyleEntry
) -> StyleCard:
    """A card whose frames are literal: slots ``{copy}`` and ``{n}`` alone."""
    return card_of(
        *(entry(Feature.OPENING, key, share) for key, share in openings.items()),
        *(entry(Feature.CLOSING, key, share) for key, share in (closings or {}).items()),
        *more,
    )


ONE_LINE = entry(Feature.LINES, "1", 1.0)
