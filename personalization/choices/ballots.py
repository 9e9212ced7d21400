"""From users' examples to ballots, and from votes to counts.

Guarantee: a user has one ballot and one vote at most, whatever and however much the user sent. Adding or removing one
user changes one count by one, and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from personalization.training.jobs.job import Ballot, Example, UserExamples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from personalization.prompts.rendering import Rendering

MOST_EXAMPLES: Final = 4  # of one user that are looked at: more make a vote steadier and a run longer
MOST_TOKENS: Final = 384  # of one example under a template


def ballots_of(users: Iterable[UserExamples], renderings: Sequence[Rendering]) -> tuple[Ballot, ...]:
    """Return each user's own examples under each candidate, with its variables at their defaults.

    Args:
        users: at most ``MOST_EXAMPLES`` of each are looked at.
        renderings: of the candidates, in the order of the votes.
    """
    return tuple(
        Ballot(
            candidates=tuple(
                UserExamples(
                    examples=tuple(
                        Example(prompt=rendering.render(one.prompt), completion=one.completion)
                        for one in user.examples[:MOST_EXAMPLES]
                    )
                )
                for rendering in renderings
            )
        )
        for user in users
    )


def tally(votes: Iterable[int | None], candidates: int) -> list[int]:
    """Return how many users vote for each candidate; a vote for none, or for what is no candidate, does not count."""
    counts = [0] * candidates
    for vote in votes:
        if vote is not None and 0 <= vote < candidates:
            counts[vote] += 1
    return counts
