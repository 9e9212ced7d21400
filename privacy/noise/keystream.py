"""Cryptographic randomness: keystreams of ChaCha20 (RFC 8439) under secret keys, and uniform numbers from them.

Each (key, purpose, step) names one keystream, so a retry with the same 32 secret bytes repeats the same draws and
spends nothing new, while no two purposes or steps ever share a byte. Keys come from the operating system's entropy,
or from such a seed by ``derive_key``; they are never logged.

Assumed, here and wherever it is used: ChaCha20 is a pseudorandom function.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KEY_BYTES: Final = 32
BLOCK_BYTES: Final = 64  # of the ChaCha20 block function

# What a keystream is used for; kept together, so that no two uses get one name.
PURPOSE_DRAW: Final = b"draw"
PURPOSE_GRADIENT: Final = b"grad"
PURPOSE_TENANTS: Final = b"tens"  # the tenant-level sum of released adapters
PURPOSE_COUNT: Final = bytes(4)  # the noisy count of a round's users
PURPOSE_STYLE: Final = b"styl"  # the vote on what answers look like
PURPOSE_COMPARISON: Final = b"comp"  # sums of users' reactions to two versions
PURPOSE_DRIFT: Final = b"drif"  # histograms of what users ask and how they take answers
PURPOSE_CHOICE: Final = b"choi"  # the draw of one of several prompt templates

_UNIT_BITS = (1 << 52) - 1

Words = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class KeyUse(StrEnum):
    """What a key is derived for; part of the derivation."""

    COUNT = "cohort count"
    TRAINING = "training noise"
    TENANTS = "tenant-level noise"
    STYLE = "style vote"
    DRIFT = "drift reading"
    CHOICE = "choice of a template"
    DIGEST = "data digest"
    SEAL = "sealed snapshot"
    COMPARISON = "comparison noise"
    LOOKS = "signed looks"  # the seed of the Ed25519 key that signs what a comparison released
    RECEIPT = "training receipt"  # the seed of the Ed25519 key that signs what the child measured


def derive_key(seed: bytes, use: KeyUse) -> bytes:
    """Return 32 bytes that belong to one use of a secret seed."""
    return HKDFExpand(algorithm=hashes.SHA256(), length=KEY_BYTES, info=f"discreet {use}".encode()).derive(
        seed
    )


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

    def keystream(self, purpose: bytes, step: int, block: int = 0) -> CipherContext:
        """Return the keystream of one use from one of its 64-byte blocks on.

        Args:
            purpose: four bytes naming the use; part of the nonce.
            step: number of the mechanism application; part of the nonce.
            block: number of the first block.

        Raises:
            ValueError: the purpose does not have four bytes.
        """
        if len(purpose) != 4:
            raise ValueError("the purpose of a keystream is named by exactly four bytes")
        # RFC 8439 block counter (32 bits) followed by the 96-bit nonce.
        nonce = block.to_bytes(4, "little") + purpose + step.to_bytes(8, "little")
        return Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()

    def uniform(self, purpose: bytes, step: int, count: int) -> Floats:
        """Return ``count`` float64 numbers, uniform on the 2⁵² multiples of 2⁻⁵² in [0, 1)."""
        words = np.empty(count, dtype=np.int64)
        overwrite(self.keystream(purpose, step), words)
        return (words & _UNIT_BITS).astype(np.float64) * 2.0**-52


def overwrite(keystream: CipherContext, words: Words) -> None:
    """Overwrite contiguous ``words`` with keystream."""
    keystream.update_into(_zeros(words.nbytes), words.reshape(-1).data.cast("B"))


@lru_cache(maxsize=8)
def _zeros(size: int) -> bytes:
    """Return the plaintext whose encryption is the keystream itself."""
    return bytes(size)
