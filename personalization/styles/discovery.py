"""From users' texts to a style card: the sum of votes, noise on every key, and what stands above its threshold.

Guarantee: with a reserved ``PartitionSelection`` of the same numbers, the card is the output of that mechanism
(``privacy.mechanisms.partition_selection``) on users under add-or-remove-one, and of public numbers. The caller has
reserved it before the texts were read, and ``key`` is secret and used for no other vote.

Each key's noise is a keystream of its own, named by the key, so it does not depend on which other keys there are. Keys
of public alphabets all get noise, held or not.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from personalization.errors import StyleCardError
from personalization.styles.card import MOST_ENTRIES, MOST_TERMS, StyleCard, StyleEntry
from personalization.styles.families import OPEN_BRACKETS, SHAPE_OF, Feature, Key, families_for, norm_of
from personalization.styles.votes import sum_of, unknown_keys
from privacy.mechanisms.partition_selection import VOTE_UNIT
from privacy.noise.discrete import discrete_gaussian
from privacy.noise.keystream import PURPOSE_STYLE, SecretStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.styles.edits import StyleEdits
    from personalization.styles.families import Family
    from personalization.styles.votes import UserTexts
    from privacy.mechanisms.partition_selection import PartitionSelection

FALSE_KEYS: Final = 0.1  # of public alphabets, expected in one card; as many again of a list of terms
# As many in a card that a vote leads, where one false length would be all that is told of lengths.
FALSE_WHERE_LED: Final = 0.05


def discover(
    users: Sequence[UserTexts],
    selection: PartitionSelection,
    key: bytes,
    *,
    declared_users: int,
    voters: int,
    edits: StyleEdits | None = None,
    terms: bool = False,
    glossary: tuple[tuple[str, str], ...] = (),
) -> StyleCard:
    """Return the style card of users.

    Args:
        users: their texts; a private read that ``selection`` pays for.
        selection: what was reserved.
        key: 32 secret bytes of this vote alone.
        declared_users: the policy's public number.
        voters: about how many users there are, as released by the noisy count.
        edits: what people struck or fixed; public.
        terms: whether users vote on terms as well; public.
        glossary: pairs (written, meant) that they vote over then; public. Only these can come out, and each gets noise.

    Raises:
        StyleCardError: users could put more keys or more weight into a vote than was reserved.
    """
    families = families_for(
        declared_users,
        selection.noise_multiplier,
        most_keys=selection.unknown_keys,
        terms=terms,
        glossary=glossary,
    )
    if unknown_keys(families) > selection.unknown_keys or norm_of(families) > 1:
        raise StyleCardError("the vote on style holds more keys, or weighs more, than was reserved")
    total = sum_of(users, families)
    entries: list[StyleEntry] = []
    for family in families:
        found = family.alphabet() if family.public else _voted(family, total)
        bound = _threshold(family, families, selection)
        for one in found:
            value = (total[one] + _noise(one, selection, key)) / VOTE_UNIT
            if value > bound:
                entries.append(
                    StyleEntry(
                        feature=one.feature,
                        depth=one.depth,
                        key=one.shape,
                        words=one.words,
                        share=round(min(1.0, value / family.weight / max(1, voters)), 4),
                        sureness=round((value - bound) / selection.noise_multiplier, 3),
                    )
                )
    for family in families:
        if family.or_shape:
            entries = _with_shapes(entries, family)
    # An order that does not come from the data's.
    entries.sort(key=lambda one: (one.feature.value, one.depth, -one.share, one.key, one.words))
    found_terms = [one for one in entries if one.feature is Feature.TERM][:MOST_TERMS]
    others = [one for one in entries if one.feature is not Feature.TERM][: MOST_ENTRIES - len(found_terms)]
    card = StyleCard(
        entries=(*others, *found_terms),
        voters=voters,
        noise_multiplier=selection.noise_multiplier,
        delta=selection.delta,
    )
    card = card if edits is None else edits.applied_to(card)
    return replace(card, entries=(*card.entries, *_shapes_of_pinned(card, families)))


def _shapes_of_pinned(card: StyleCard, families: Sequence[Family]) -> list[StyleEntry]:
    """Return shapes of words that a person fixed, where users give their vote to words and too few did to these."""
    asked = {one.feature: one for one in families if one.or_shape}
    there = {(one.feature, one.depth, one.key) for one in card.entries}
    made: dict[tuple[Feature, int, str], StyleEntry] = {}
    for one in card.entries:
        if one.pinned and one.feature in asked:
            for shape in _shapes_of(one, asked[one.feature]):
                place = (shape.feature, shape.depth, shape.key)
                share = one.share + (made[place].share if place in made else 0.0)
                made[place] = replace(shape, share=min(1.0, share))
    return [one for place, one in made.items() if place not in there and one.handle not in card.removed]


def _voted(family: Family, total: dict[Key, int]) -> list[Key]:
    return sorted(one for one in total if family.asks_for(one))


def _with_shapes(entries: list[StyleEntry], family: Family) -> list[StyleEntry]:
    """Return entries in which each shape has the share of its words, and of what it goes on to, found by itself or not.

    Users gave their vote to the words where there were some, so what was found of a shape is what is left of it.
    """
    asked = {family.feature, SHAPE_OF[family.feature]}
    whole: dict[tuple[Feature, int, str], StyleEntry] = {}
    for one in sorted((one for one in entries if one.feature in asked), key=lambda one: -one.depth):
        for shape in _shapes_of(one, family):
            place = (shape.feature, shape.depth, shape.key)
            known = whole.get(place, replace(shape, share=0.0))
            sureness = max(known.sureness, one.sureness)
            whole[place] = replace(
                known, share=round(min(1.0, known.share + one.share), 4), sureness=sureness
            )
    others = [one for one in entries if one.feature is not SHAPE_OF[family.feature]]
    return [*others, *whole.values()]


def _shapes_of(one: StyleEntry, family: Family) -> list[StyleEntry]:
    """Return the shapes that an entry of openings is of, to its depth and to those before."""
    shape = replace(one, feature=SHAPE_OF[family.feature], words="", pinned=False)
    if one.depth == 1:
        return [shape]
    # The first depth ended with the bracket that holds the last slot.
    within = one.key[: one.key.rfind("{")]
    ends = max(within.rfind(bracket) for bracket in OPEN_BRACKETS) + 1
    return [shape, replace(shape, depth=1, key=one.key[:ends])]


def _threshold(family: Family, families: Sequence[Family], selection: PartitionSelection) -> float:
    if not family.public:
        return selection.threshold(family.weight)
    # A list of terms stands by itself: however long it is, nothing else is found less often for it.
    alike = [family] if family.listed else [one for one in families if one.public and not one.listed]
    candidates = sum(len(one.alphabet()) for one in alike)
    return selection.public_threshold(candidates, FALSE_WHERE_LED if selection.leads else FALSE_KEYS)


def _noise(one: Key, selection: PartitionSelection, key: bytes) -> int:
    # With a length, for a term may hold any character: two keys of one name would have one noise and tell each other.
    name = f"{one.feature.value}\0{one.depth}\0{len(one.shape)}\0{one.shape}\0{one.words}".encode()
    stream = SecretStream(hashlib.blake2b(name, key=key, digest_size=32).digest())
    return discrete_gaussian(stream, PURPOSE_STYLE, 0, selection.noise_multiplier * VOTE_UNIT)
