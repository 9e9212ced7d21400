"""Who gets the places of an engine that holds fewer versions than are wanted: tenants share them, then use decides.

A version counts for the share on whose behalf it is asked for: a pseudonym of the tenant, which gateways give, or the
version's own line where nobody gave one. Whose share holds fewer places comes first; a version that was asked for
lately is put out by its own share, or by one that holds fewer places. So a tenant with many lines, however often it
asks for all of them, pushes nobody else out of what it has no claim to.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from streams.serving.engines.lives import Life

LATELY_SECONDS: Final = (
    300.0  # who was asked for within so long keeps a place against shares that hold as many
)


def held_by(inside: Iterable[Life]) -> Counter[str]:
    """Return how many places each share holds."""
    return Counter(life.share for life in inside)


def in_turn(due: Iterable[Life], held: Mapping[str, int]) -> Iterator[Life]:
    """Yield versions in the order in which they may come in, by what ``held`` says when their turn comes."""

    def turn(life: Life) -> tuple[int, float, bool, str]:
        return held.get(life.share, 0), -life.used_at, life.candidate, life.name

    waiting = [(turn(life), life.name, life) for life in due]
    heapq.heapify(waiting)
    while waiting:
        place, name, life = heapq.heappop(waiting)
        now = turn(life)
        if now == place:
            yield life
        else:
            heapq.heappush(waiting, (now, name, life))  # its share got a place, or lost one, meanwhile


def to_put_out(
    life: Life,
    inside: Iterable[Life],
    held: Mapping[str, int],
    *,
    now: float,
    stay_seconds: float,
    busy: Callable[[Life], bool],
) -> Life | None:
    """Return who makes place for a version; ``None`` where nobody has to.

    Args:
        life: the version that waits.
        inside: versions that hold the places.
        held: places of each share.
        now: by the bridge's clock.
        stay_seconds: how long each stays at least.
        busy: says whether requests use a version; asked last, since it asks the engine.
    """

    def has_to(one: Life) -> bool:
        yields = one.share == life.share or held.get(one.share, 0) > held.get(life.share, 0)
        return yields or now - one.used_at >= LATELY_SECONDS

    idle = [
        one
        for one in inside
        if one.used_at < life.used_at and now - one.loaded_at >= stay_seconds and has_to(one)
    ]
    idle.sort(key=lambda one: (one.used_at, one.name))
    return next((one for one in idle if not busy(one)), None)
