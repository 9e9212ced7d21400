"""The bound on what one user contributes: which of a user's signals stay. Pure.

*Guarantee*: of each user and period at most ``bound`` signals stay, namely those of smallest rank
(``privacy.keys.pseudonyms.eviction_rank``, a keyed hash of the event). Which ones stay depends on the set of that
user's signals alone: not on other users, not on the order or the batches in which they arrived, and not on
how often one arrived. Adding or removing one user therefore changes that user's signals only, which is what
user-level accounting rests on. Sources: bounding contributions before sampling, arXiv 2407.07737; bottom-k
sampling by hash.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Contribution(NamedTuple):
    """One signal as the bound sees it: its rank first, its event second to break ties."""

    rank: bytes
    event_digest: bytes


@dataclass(frozen=True, slots=True)
class Reduction:
    """What changes when new signals of one user and period meet the stored ones."""

    kept: frozenset[Contribution]  # all that stay, stored or new
    entering: frozenset[Contribution]  # new ones that stay
    evicted: frozenset[Contribution]  # stored ones that must go


def reduce(stored: Iterable[Contribution], offered: Iterable[Contribution], bound: int) -> Reduction:
    """Return which signals of one user and period stay.

    Args:
        stored: what is stored of that user and period.
        offered: what arrived; what is stored already counts once.
        bound: most signals that may stay, at least 1.

    Raises:
        ValueError: ``bound`` is below 1.
    """
    if bound < 1:
        raise ValueError(f"bound is {bound}; allowed is at least 1")
    before, new = frozenset(stored), frozenset(offered)
    kept = frozenset(heapq.nsmallest(bound, before | new))
    return Reduction(kept=kept, entering=kept - before, evicted=before - kept)
