"""Gaussian numbers for the tenant-level mechanism, from a ChaCha20 keystream; no torch here.

Box–Muller in float64, and the noisy sum is rounded to the multiples of a public power of two: rounding after the noise
is post-processing, and the last bits of a released number then say nothing about the inputs. ``training.noise`` has the
argument in full; this is the same construction without torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

KEY_BYTES = 32
LATTICE_BITS = 8  # as in the training noise: the step is at most 2⁻⁸ of the standard deviation
_BITS = 52


def normals_of(key: bytes) -> Callable[[int], NDArray[np.float64]]:
    """Return a source of standard normal numbers; each call goes on where the last one ended.

    Args:
        key: 32 secret bytes, used for nothing else.

    Raises:
        ValueError: the key does not have 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"the noise key has {len(key)} bytes; it must have {KEY_BYTES}")
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def uniform(count: int) -> NDArray[np.float64]:
        words = np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")
        return (words >> np.uint64(64 - _BITS)).astype(np.float64) * 2.0**-_BITS

    def normals(count: int) -> NDArray[np.float64]:
        length = np.sqrt(-2.0 * np.log1p(-uniform(count)))
        return np.asarray(length * np.cos(2.0 * np.pi * uniform(count)), dtype=np.float64)

    return normals


def on_lattice(values: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return noisy sums rounded to the public lattice of their noise's standard deviation."""
    step = math.ldexp(1.0, math.frexp(deviation)[1] - 1 - LATTICE_BITS)
    return np.asarray(np.rint(values / step) * step, dtype=np.float64)
