"""A user's texts become one vote: whole numbers on a lattice, of L2 norm at most 1, for a bounded number of keys.

Guarantee: the vote depends on that user's texts and public numbers alone; the sum of squares of its numbers is at most
``UNIT²``; the numbers of a family are at most its weight; and at most ``unknown_keys`` of its keys are of an alphabet
that is not public. Adding or removing a user changes the sum of votes by that much and no more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from personalization.styles.families import Feature, Key, keys_of
from personalization.styles.listed import listed_pairs
from personalization.styles.terms import MOST_PAIRS, steady_pairs
from privacy.mechanisms.partition_selection import VOTE_UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.styles.families import Family

MOST_TEXTS: Final = 4  # of one user, the first ones; more would make more keys


@dataclass(frozen=True, kw_only=True)
class StyleText:
    """One answer that its user kept, and what it answers."""

    prompt: str
    final: str
    shown: str | None = None


@dataclass(frozen=True, kw_only=True)
class UserTexts:
    """The texts of one user, in an order of the user's own."""

    texts: tuple[StyleText, ...] = field(repr=False)


def unknown_keys(families: Sequence[Family]) -> int:
    """Return how many keys of alphabets that are not public one vote holds at most."""
    unknown = [family for family in families if not family.public]
    terms = sum(family.feature is Feature.TERM for family in unknown)
    return MOST_PAIRS * terms + MOST_TEXTS * (len(unknown) - terms)


def vote_of(user: UserTexts, families: Sequence[Family]) -> dict[Key, int]:
    """Return a user's vote: of each family its weight, shared among the keys of the user's texts, rounded down.

    Shared evenly over texts, the sum of all votes is each key's share of answers times the number of users. Terms share
    the weight of their family so that their L2 norm is at most that: a user's three steadiest ones, or where users vote
    over a public list, all of it that the user made.

    Args:
        user: the texts, at most ``MOST_TEXTS`` of which count.
        families: what is voted on, with weights of an L2 norm of at most 1.
    """
    texts = user.texts[:MOST_TEXTS]
    keys = [{(key.feature, key.depth): key for key in keys_of(text.final, text.prompt)} for text in texts]
    vote: dict[Key, int] = {}
    for family in families:
        found = Counter(key for one in keys if (key := family.key_among(one)) is not None)
        vote |= {key: int(family.weight * VOTE_UNIT * count / len(texts)) for key, count in found.items()}
        if family.feature is Feature.TERM:
            pairs = listed_pairs(texts, family.listed) if family.listed else steady_pairs(texts)
            for written, meant in pairs:
                share = family.weight * VOTE_UNIT / len(pairs) ** 0.5
                vote[Key(Feature.TERM, family.depth, written, meant)] = int(share)
    return vote


def sum_of(users: Sequence[UserTexts], families: Sequence[Family]) -> Counter[Key]:
    """Return the sum of all votes, in units of ``1 / VOTE_UNIT``; the order of users does not matter."""
    total: Counter[Key] = Counter()
    for user in users:
        for key, value in vote_of(user, families).items():
            total[key] += value
    return total
