"""The discrete Gaussian, for counts: sampled exactly with whole numbers, so that no rounding can leak.

Canonne, Kamath and Steinke, arXiv 2004.00010, algorithms 1 to 3. Its Rényi divergence is at most that of the
continuous Gaussian of the same parameter (ibid., Theorem 4), so it is charged as one.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

    from privacy.noise.keystream import SecretStream


def discrete_gaussian(stream: SecretStream, purpose: bytes, step: int, standard_deviation: float) -> int:
    """Return noise for a whole number, charged as a ``Gaussian`` of this standard deviation.

    Args:
        stream: the secret stream; the same name gives the same noise, so a repeated round repeats its count.
        purpose: four bytes naming the use.
        step: number of the mechanism application.
        standard_deviation: parameter σ of the noise, in the unit of the count.
    """
    return _discrete_gaussian(Fraction(standard_deviation) ** 2, Coins(stream.keystream(purpose, step)))


class Coins:
    """Uniform whole numbers from a keystream, and coins of exact probabilities made of them."""

    def __init__(self, keystream: CipherContext) -> None:
        self._keystream = keystream

    def below(self, bound: int) -> int:
        """Return a uniform number in [0, bound), by rejection."""
        size = (bound - 1).bit_length()
        octets = (size + 7) // 8
        while True:
            value = int.from_bytes(self._keystream.update(bytes(octets)), "little") & ((1 << size) - 1)
            if value < bound:
                return value

    def bernoulli(self, probability: Fraction) -> bool:
        """Return True with exactly this probability in [0, 1]."""
        return self.below(probability.denominator) < probability.numerator

    def bernoulli_exp(self, gamma: Fraction) -> bool:
        """Return True with probability exp(-gamma), gamma ≥ 0 (algorithm 1)."""
        while gamma > 1:
            if not self.bernoulli_exp(Fraction(1)):
                return False
            gamma -= 1
        k = 1
        while self.bernoulli(gamma / k):
            k += 1
        return k % 2 == 1


def _discrete_laplace(scale: int, coins: Coins) -> int:
    while True:  # algorithm 2 with t = scale, s = 1
        low = coins.below(scale)
        if not coins.bernoulli_exp(Fraction(low, scale)):
            continue
        high = 0
        while coins.bernoulli_exp(Fraction(1)):
            high += 1
        magnitude = low + scale * high
        negative = coins.below(2) == 1
        if negative and magnitude == 0:
            continue
        return -magnitude if negative else magnitude


def _discrete_gaussian(variance: Fraction, coins: Coins) -> int:
    scale = int(variance**0.5) + 1  # algorithm 3: any scale is correct, this one is fast
    while True:
        candidate = _discrete_laplace(scale, coins)
        gamma = (abs(candidate) - variance / scale) ** 2 / (2 * variance)
        if coins.bernoulli_exp(gamma):
            return candidate
