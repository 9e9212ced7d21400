"""How many users a choice among templates needs; made of public numbers alone, before anything is read.

A choice is worth its price if it finds the best template where there is one: where its share of all votes lies
``NOTICED_LEAD`` above each of the others'. It then errs for two reasons, who happened to vote and the noise of the
draw. With D votes between the best and another, the draw takes the other instead with probability at most
1/(1 + exp(εD)); D is as good as normal, with mean N·lead; and all others together err at most by the sum.
"""

from __future__ import annotations

import math
from typing import Final

NOTICED_LEAD: Final = 0.2  # of all votes
CERTAINTY: Final = 0.9  # with which the best is drawn where it leads so far
MOST_USERS: Final = 10_000_000
_POINTS: Final = tuple(number / 10 for number in range(-80, 81))  # standard deviations
_WEIGHTS: Final = tuple(math.exp(-(point**2) / 2) for point in _POINTS)
_TOTAL: Final = math.fsum(_WEIGHTS)


def error_bound(users: float, *, candidates: int, epsilon: float, lead: float = NOTICED_LEAD) -> float:
    """Return a bound on the probability that another template than the best is drawn.

    Args:
        users: that vote.
        candidates: how many templates.
        epsilon: of the draw.
        lead: of the best over each of the others, as a share of all votes.
    """
    behind = (1 - lead) / candidates
    mean, spread = users * lead, math.sqrt(users * (2 * behind + lead - lead**2))
    one = math.fsum(
        weight / (1 + math.exp(min(700.0, epsilon * (mean + point * spread))))
        for point, weight in zip(_POINTS, _WEIGHTS, strict=True)
    )
    return min(1.0, (candidates - 1) * one / _TOTAL)


def users_needed(*, candidates: int, epsilon: float, lead: float = NOTICED_LEAD) -> int:
    """Return the fewest users with which the best template is drawn with ``CERTAINTY`` where it leads by ``lead``."""
    low, high = 0, 1
    while error_bound(high, candidates=candidates, epsilon=epsilon, lead=lead) > 1 - CERTAINTY:
        low, high = high, 2 * high
        if high > MOST_USERS:
            return MOST_USERS
    while high - low > 1:
        middle = (low + high) // 2
        if error_bound(middle, candidates=candidates, epsilon=epsilon, lead=lead) > 1 - CERTAINTY:
            low = middle
        else:
            high = middle
    return high
