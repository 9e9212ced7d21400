"""One user's vote among candidate templates: under which of them the base finds the user's own answers likeliest.

The base was never trained on anyone's answers, so every answer is held out from it.

Guarantee: a vote depends on that user's examples and public numbers alone. Each ballot is measured in passes of its
own, because in a pass shared with others the last digits of a loss would depend on their lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from personalization.planning.plan import PerformanceFlags
from personalization.training.jobs.job import Ballot
from personalization.training.run.measure import nll_per_user


def vote_of(ballot: Ballot, base: Path, max_tokens: int, flags: PerformanceFlags) -> int | None:
    """Return the place of the candidate that a user votes for; ``None`` where the user votes for none.

    Args:
        ballot: the user's examples under each candidate.
        base: a local base model.
        max_tokens: truncation length of each example.
        flags: device to run on.
    """
    if not all(one.examples for one in ballot.candidates):
        return None
    return likeliest(nll_per_user(base, None, ballot.candidates, max_tokens=max_tokens, flags=flags))


def likeliest(losses: Sequence[float]) -> int | None:
    """Return the place of the smallest loss, the first of equal ones; ``None`` where one is no number."""
    if not losses or not all(map(math.isfinite, losses)):
        return None
    return min(range(len(losses)), key=losses.__getitem__)
