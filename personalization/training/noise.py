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
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms

KEY_BYTES = 32
DRAWS_PER_NUMBER = 4
PURPOSE_DRAW = b"draw"
PURPOSE_GRADIENT = b"grad"

# Pairs of numbers made at a time: a block fits a core's own cache and is too small for torch to split over threads,
# so that making noise beside training takes one core only.
_BLOCK_PAIRS = 1 << 13
_FRACTION_BITS = (1 << 52) - 1
_ONE_BITS = 0x3FF << 52  # the float64 1.0
_TWO = torch.tensor(2.0, dtype=torch.float64)

Words = npt.NDArray[np.int64]


class SecretStream:
    """Random numbers derived from one secret key.

    Args:
        key: 32 bytes from a cryptographic source. Whoever knows them can remove the noise.

    Raises:
        ValueError: the key does not have 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the noise key has {len(key)} bytes; it must have {KEY_BYTES}")
        self._key = key

    def keystream(self, purpose: bytes, step: int) -> CipherContext:
        """Return the keystream of one use from its beginning.

        Args:
            purpose: four bytes naming the use; part of the nonce.
            step: number of the mechanism application; part of the nonce.

        Raises:
            ValueError: the purpose does not have four bytes.
        """
        if len(purpose) != 4:
            raise ValueError("the purpose of a keystream is named by exactly four bytes")
        # RFC 8439 block counter (32 bits, from zero) followed by the 96-bit nonce.
        nonce = bytes(4) + purpose + step.to_bytes(8, "little")
        return Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()

    def uniform(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` float64 numbers, uniform on the 2⁵² multiples of 2⁻⁵² in [0, 1)."""
        return _one_to_two(self.keystream(purpose, step), np.empty(count, dtype=np.int64)) - 1.0

    def gaussian(self, purpose: bytes, step: int, count: int) -> torch.Tensor:
        """Return ``count`` float64 standard normal numbers."""
        return gaussians([self], purpose, step, count)[0]


def gaussians(streams: list[SecretStream], purpose: bytes, step: int, count: int) -> torch.Tensor:
    """Return standard normal numbers ``(streams, count)`` in float64, one row from each stream.

    A stream gives the same row whichever streams stand beside it.
    """
    return gaussians_later(streams, purpose, step, count)()


def gaussians_later(
    streams: list[SecretStream], purpose: bytes, step: int, count: int
) -> Callable[[], torch.Tensor]:
    """Start making ``gaussians`` beside the calling thread; call the result to wait for them.

    Noise does not depend on data, so a step can make it while its gradients are computed.
    """
    out = torch.empty(len(streams), count, dtype=torch.float64)
    jobs = [
        _pool().submit(_fill_gaussian, stream.keystream(purpose, step), row)
        for stream, row in zip(streams, out.unbind(0), strict=True)
    ]

    def wait() -> torch.Tensor:
        for job in jobs:
            job.result()
        return out

    return wait


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="noise")


def _one_to_two(keystream: CipherContext, words: Words) -> torch.Tensor:
    """Overwrite ``words`` with keystream and return them as float64 numbers, uniform in [1, 2)."""
    keystream.update_into(_zeros(words.nbytes), words.data.cast("B"))
    # The low 52 bits become the fraction of a float64 whose exponent is that of 1.
    np.bitwise_and(words, _FRACTION_BITS, out=words)
    np.bitwise_or(words, _ONE_BITS, out=words)
    return torch.from_numpy(words.view(np.float64))


@lru_cache(maxsize=8)
def _zeros(size: int) -> bytes:
    """Return the plaintext whose encryption is the keystream itself."""
    return bytes(size)


def box_muller(uniform: torch.Tensor) -> torch.Tensor:
    """Turn ``8·h`` numbers uniform in [1, 2) into ``2·h`` standard normals, each the half sum of four draws.

    ``uniform`` is overwritten.
    """
    radius, angle = uniform.view(2, DRAWS_PER_NUMBER, -1).unbind(0)
    # 2 - u lies in (0, 1], so the logarithm is finite.
    torch.sub(_TWO, radius, out=radius).log_().mul_(-2.0).sqrt_()
    angle.mul_(2.0 * math.pi)
    first = angle.cos().mul_(radius).sum(0)
    second = angle.sin_().mul_(radius).sum(0)
    return torch.cat([first, second]).mul_(0.5)


def _fill_gaussian(keystream: CipherContext, out: torch.Tensor) -> None:
    at = 0
    while at < len(out):
        pairs = min(_BLOCK_PAIRS, (len(out) - at + 1) // 2)
        words = np.empty(2 * DRAWS_PER_NUMBER * pairs, dtype=np.int64)
        numbers = box_muller(_one_to_two(keystream, words))
        out[at : at + len(numbers)] = numbers[: len(out) - at]
        at += len(numbers)


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
    drawn: list[int] = (
        torch.nonzero(stream.uniform(PURPOSE_DRAW, step, users) < sample_rate).flatten().tolist()
    )
    return drawn
