"""Log-probabilities out of what engines tell of their likeliest next tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.errors import EngineUnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def watched_values(told: Mapping[int, float], watched: Sequence[int]) -> list[float]:
    """Return the log-probability of each watched token.

    A token that the engine did not tell is less likely than all that it told, and counts as much as the least of them:
    a server of the right adapter tells all that are watched, so this hides no difference.

    Raises:
        EngineUnreachableError: it told nothing.
    """
    if not told:
        raise EngineUnreachableError("the engine tells no log-probabilities; allow them in its settings")
    least = min(told.values())
    return [told.get(token, least) for token in watched]
