"""A choice of one of a few public candidates by users' votes: the exponential mechanism over their counts.

**Guarantee.** Each user gives one vote, to at most one candidate, whatever and however much the user sent. A candidate
with c votes is drawn with probability proportional to exp(ε·c), exactly (``privacy.noise.choice``). Adding a user
raises one count by one and lowers none, so the logarithm of a candidate's probability moves up by at most ε or down by
at most ε, and those of any two candidates by amounts that differ by at most ε. So the draw is ε-DP, and of *range* ε
(Durfee and Rogers, arXiv 1905.04273): by Hoeffding's lemma its Rényi divergence at order α is at most α·ε²/8 (Cesar and
Rogers, arXiv 2004.07223), a quarter of what ε-DP alone would say. Report-noisy-max with Gumbel noise of scale 1/ε is
the same draw.

**What the caller must have done**: candidates, ε and their number are public; a user's vote depends on that user's own
data and public numbers alone; nothing but the drawn candidate is told, no count, margin or loss.

``personalization.choices`` charges and takes such a choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from privacy.mechanisms.private_read import PrivateRead, ReadPurpose, checked
from privacy.mechanisms.selection import pure_divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST: Final = 2
MOST: Final = 64  # candidates


@dataclass(frozen=True, kw_only=True)
class ExponentialChoice(PrivateRead):
    """One draw of one candidate; see the module for the guarantee and for what must hold of each user's vote.

    Attributes:
        epsilon: of the draw: pure, and its range.
        candidates: how many there are; the price does not depend on it.
        purpose: why the data is read.
    """

    kind: ClassVar[str] = "exponential_choice"

    epsilon: float
    candidates: int
    purpose: ReadPurpose = ReadPurpose.SELECTION

    def __post_init__(self) -> None:
        checked("epsilon", self.epsilon, 1e-3, 8.0)
        number = self.candidates
        if isinstance(number, bool) or not isinstance(number, int) or not FEWEST <= number <= MOST:
            raise ValueError(f"candidates is {number!r}; allowed is a whole number from {FEWEST} to {MOST}")

    def divergences(self, orders: Sequence[float]) -> list[float]:
        """Return the price: α·ε²/8, or that of randomized response with the same ε where it is lower."""
        zcdp = self.epsilon**2 / 8
        return [min(zcdp * order, pure_divergence(self.epsilon, order)) for order in orders]
