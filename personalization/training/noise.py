"""Cryptographic randomness: uniform and Gaussian numbers from a ChaCha20 keystream.

Each (key, purpose, step) names one keystream, so a retry with the same 32 secret bytes repeats the same draws and
spends nothing new, while no two purposes or steps ever share a byte. The key comes from the operating system's
entropy; it is never logged.

Gaussians are sums of four Box–Muller draws in float64, halved (the construction of Opacus' ``secure_mode``, from
"Holohan and Braghin, Secure random sampling in differential privacy", section 5.1): the low bits of the released
number then no longer reveal which floating point inputs made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

KEY_BYTES = 32
DRAWS_PER_NUMBER = 4
_BLOCK_PAIRS = 1 << 14
PURPOSE_DRAW = b"draw"
PURPOSE_GRADIENT = b"grad"


class SecretStream:
    """Random tensors derived from one secret key.

    Args:
        key: 32 bytes from a cryptographic source. Whoever knows them can remove the noise.

    Raises:
        ValueError: the key does not have 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the noise key has {len(key)} bytes; it must have {KEY_BYTES}")
        self._key = key

    def words(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` uniform 64-bit words as a 1-D int64 tensor.

        Args:
            purpose: four bytes naming the use; part of the nonce.
            step: number of the mechanism application; part of the nonce.
            count: how many words.

        Raises:
            ValueError: the purpose does not have four bytes.
        """
        return next(self._blocks(purpose, step, count, count)) if count else torch.empty(0, dtype=torch.int64)

    def uniform(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` float64 numbers, uniform on the 2⁵³ multiples of 2⁻⁵³ in [0, 1)."""
        return unit_interval(self.words(purpose, step, count))

    def gaussian(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` float64 standard normal numbers.

        The stream is consumed block by block, so that the words and angles of a block stay in the processor's cache.
        """
        out = torch.empty(count, dtype=torch.float64)
        pairs = (count + 1) // 2
        at = 0
        for words in self._blocks(
            purpose, step, 2 * DRAWS_PER_NUMBER * pairs, 2 * DRAWS_PER_NUMBER * _BLOCK_PAIRS
        ):
            numbers = gaussian_from_words(words)
            taken = out[at : at + len(numbers)]
            taken.copy_(numbers[: len(taken)])
            at += len(numbers)
        return out

    def _blocks(self, purpose: bytes, step: int, count: int, block: int) -> Iterator[torch.Tensor]:
        if len(purpose) != 4:
            raise ValueError("the purpose of a keystream is named by exactly four bytes")
        # RFC 8439 block counter (32 bits, from zero) followed by the 96-bit nonce.
        nonce = bytes(4) + purpose + step.to_bytes(8, "little")
        stream = Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()
        for start in range(0, count, block):
            size = 8 * min(block, count - start)
            buffer = bytearray(size)
            stream.update_into(bytes(size), buffer)
            yield torch.frombuffer(buffer, dtype=torch.int64)


def unit_interval(words: torch.Tensor) -> torch.Tensor:
    """Map 64-bit words to float64 in [0, 1) by their upper 53 bits."""
    # The shift is arithmetic, so the upper bits are masked to make it logical.
    return ((words >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53


def gaussian_from_words(words: torch.Tensor) -> torch.Tensor:
    """Turn 8·h uniform words into 2·h standard normals, each the half sum of four Box–Muller draws."""
    radius_words, angle_words = words.view(2, DRAWS_PER_NUMBER, -1)
    # 1 - u lies in (0, 1], so the logarithm is finite.
    radius = unit_interval(radius_words).neg_().add_(1.0).log_().mul_(-2.0).sqrt_()
    angle = unit_interval(angle_words).mul_(2.0 * math.pi)
    return torch.cat([(angle.cos() * radius).sum(0), (angle.sin_() * radius).sum(0)]).mul_(0.5)


def draw_users(stream: SecretStream, step: int, users: int, sample_rate: float) -> list[int]:
    """Draw users by independent coins (Poisson sampling) for one step.

    Args:
        stream: the tenant's secret stream.
        step: the step, from 0.
        users: how many users the tenant has; they are numbered in a deterministic order.
        sample_rate: the public probability of each coin.

    Returns:
        Numbers of the users drawn, ascending; it may be empty.
    """
    if sample_rate >= 1.0:
        return list(range(users))
    coins = stream.uniform(PURPOSE_DRAW, step, users)
    return torch.nonzero(coins < sample_rate).flatten().tolist()
