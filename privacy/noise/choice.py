"""A draw in proportion to exp(ε·count), exactly: with whole numbers and fractions alone, so that no rounding can leak.

Candidates are proposed evenly and accepted with probability exp(-ε·(most - count)), by the coins of the discrete
Gaussian (arXiv 2004.00010, algorithm 1). ε is the fraction that its float stands for, so what is drawn is what is
charged. Mironov (CCS 2012) shows what noise in floating point gives away.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from privacy.noise.discrete import Coins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privacy.noise.keystream import SecretStream


def exponential_choice(
    stream: SecretStream, purpose: bytes, step: int, counts: Sequence[int], epsilon: float
) -> int:
    """Return the place of one candidate, drawn with probability in proportion to exp(ε·count).

    Args:
        stream: the secret stream; the same name gives the same draw.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
        counts: whole numbers, one for each candidate, at least one.
        epsilon: above 0.

    Raises:
        ValueError: there is no candidate, or ε is not above 0.
    """
    if not counts or epsilon <= 0:
        raise ValueError("a draw needs at least one candidate and an epsilon above 0")
    coins, most, rate = Coins(stream.keystream(purpose, step)), max(counts), Fraction(epsilon)
    while True:
        place = coins.below(len(counts))
        if coins.bernoulli_exp(rate * (most - counts[place])):
            return place
