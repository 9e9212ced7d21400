"""The mean of a line's style cards, for a line whose policy asks to remember. Both were released, so it is free.

A public part is made of one card alone: of the newest vote it would teach what people do now, and what they did before
would be gone with the next release, however long the private part remembers it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from personalization.styles.card import MOST_ENTRIES, MOST_TERMS, StyleCard
from personalization.styles.families import Feature

if TYPE_CHECKING:
    from personalization.styles.card import StyleEntry


def averaged(newest: StyleCard, earlier: StyleCard) -> StyleCard:
    """Return a card whose shares are means over all releases so far, each of which counts alike.

    What a vote did not find counts 0 in it. An entry is as sure as the surer of the two says. What a person had fixed
    in the earlier card was not found by users, so it is not remembered: decisions are applied to the mean again.

    Args:
        newest: what this release's vote found, before people's decisions.
        earlier: the card of the release before, which may be such a mean itself.
    """
    before = earlier.remembered + 1
    old = {one.handle: one for one in earlier.entries if not one.pinned}
    new = {one.handle: one for one in newest.entries}
    found = [_mean(new.get(handle), old.get(handle), before) for handle in {**old, **new}]
    found.sort(key=lambda one: (-one.share, one.handle))
    terms = [one for one in found if one.feature is Feature.TERM][:MOST_TERMS]
    others = [one for one in found if one.feature is not Feature.TERM][: MOST_ENTRIES - len(terms)]
    kept = sorted(
        (*others, *terms), key=lambda one: (one.feature.value, one.depth, -one.share, one.key, one.words)
    )
    return replace(
        newest, entries=tuple(kept), delta=max(newest.delta, earlier.delta), remembered=before, removed=()
    )


def _mean(new: StyleEntry | None, old: StyleEntry | None, before: int) -> StyleEntry:
    either = new or old
    assert either is not None
    now, then = (0.0 if one is None else one.share for one in (new, old))
    return replace(
        either,
        share=round((now + before * then) / (before + 1), 4),
        sureness=max(one.sureness for one in (new, old) if one is not None),
    )
