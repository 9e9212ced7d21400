"""The noisy count of a round's users: a charged release that decides whether the cohort is large enough.

Noise is the discrete Gaussian, sampled exactly with whole numbers from a ChaCha20 keystream (Canonne,
Kamath and Steinke, arXiv 2004.00010, algorithms 1 to 3). Its Rényi divergence is at most that of the
continuous Gaussian of the same parameter (ibid., Theorem 4), so it is charged as one, and no floating-point
rounding can leak. The same key gives the same noise, so a repeated round repeats its count.
"""

from __future__ import annotations

from fractions import Fraction

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

COUNT_PURPOSE = "cohort count"
TRAINING_PURPOSE = "training noise"
DIGEST_PURPOSE = "data digest"


def derive_key(seed: bytes, purpose: str) -> bytes:
    """Return 32 bytes that belong to one purpose of a round's secret seed."""
    return HKDFExpand(algorithm=hashes.SHA256(), length=32, info=f"discreet {purpose}".encode()).derive(seed)


def noisy_count(count: int, standard_deviation: float, key: bytes) -> int:
    """Return ``count`` plus discrete Gaussian noise, charged as a ``Gaussian`` of sensitivity 1.

    Args:
        count: users of the round; adding or removing one user changes it by at most 1.
        standard_deviation: parameter σ of the noise, in users.
        key: 32 secret bytes, used for nothing else.
    """
    return count + _discrete_gaussian(Fraction(standard_deviation) ** 2, _Coins(key))


class _Coins:
    """Uniform whole numbers from a keystream."""

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def below(self, bound: int) -> int:
        """Return a uniform number in [0, bound), by rejection."""
        size = (bound - 1).bit_length()
        octets = (size + 7) // 8
        while True:
            value = int.from_bytes(self._stream.update(bytes(octets)), "little") & ((1 << size) - 1)
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


def _discrete_laplace(scale: int, coins: _Coins) -> int:
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


def _discrete_gaussian(variance: Fraction, coins: _Coins) -> int:
    scale = int(variance**0.5) + 1  # algorithm 3: any scale is correct, this one is fast
    while True:
        candidate = _discrete_laplace(scale, coins)
        gamma = (abs(candidate) - variance / scale) ** 2 / (2 * variance)
        if coins.bernoulli_exp(gamma):
            return candidate
