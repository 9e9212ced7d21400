"""Gaussian numbers for the tenant-level mechanism, from a ChaCha20 keystream; no torch here.

The construction is that of the training noise: sums of four Box–Muller draws, halved, so that the low bits of a
released number do not reveal which floating point inputs made it (Holohan and Braghin, "Secure random sampling in
differential privacy", section 5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

KEY_BYTES = 32
_DRAWS = 4
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
        length = np.sqrt(-2.0 * np.log1p(-uniform(_DRAWS * count)))
        draws = length * np.cos(2.0 * np.pi * uniform(_DRAWS * count))
        return np.asarray(draws.reshape(_DRAWS, count).sum(axis=0) / 2.0, dtype=np.float64)

    return normals
