"""Authenticated encryption of small values, and keys wrapped by keys (AES-256-GCM, NIST SP 800-38D).

A sealed value is one version byte, a random 96-bit nonce, and the ciphertext with its 128-bit tag. The
associated data name what the value is and whose, so that a value copied to another row, user or tenant does
not open.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.errors import KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION: Final = b"\x01"


def new_key() -> bytes:
    """Return 32 random bytes from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def associated(*parts: str) -> bytes:
    """Return ``parts`` as associated data, each with its length, so that no two lists of parts look alike."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = part.encode()
        pieces += (len(encoded).to_bytes(4, "big"), encoded)
    return b"".join(pieces)


def new_nonces(count: int) -> Iterator[bytes]:
    """Return ``count`` random nonces for ``Cipher.seal``: the operating system is asked once for all."""
    drawn = secrets.token_bytes(_NONCE_BYTES * count)
    return (drawn[start : start + _NONCE_BYTES] for start in range(0, len(drawn), _NONCE_BYTES))


class Cipher:
    """One key, ready to seal and open; its ``repr`` shows nothing of it."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise KeyUnavailableError(f"a key has {len(key)} bytes; allowed are exactly {KEY_BYTES}")
        self._aead = AESGCM(key)

    def seal(self, plaintext: bytes, associated_data: bytes, nonce: bytes | None = None) -> bytes:
        """Return ``plaintext`` encrypted and bound to ``associated_data``.

        Args:
            plaintext: what to seal.
            associated_data: what the value is and whose.
            nonce: one of ``new_nonces``, never used before with any key; by default a new one.
        """
        if nonce is None:
            nonce = secrets.token_bytes(_NONCE_BYTES)
        return b"".join((_VERSION, nonce, self._aead.encrypt(nonce, plaintext, associated_data)))

    def open(self, sealed: bytes, associated_data: bytes) -> bytes:
        """Return the plaintext of ``sealed``.

        Raises:
            KeyUnavailableError: the key, the associated data or a byte of ``sealed`` is another one.
        """
        if sealed[:1] != _VERSION:
            raise KeyUnavailableError(
                "a sealed value has an unknown form; it was not written by this version"
            )
        try:
            return self._aead.decrypt(
                sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :], associated_data
            )
        except (InvalidTag, ValueError) as error:
            raise KeyUnavailableError(
                "a sealed value does not open with this key; check that the configured master key is the one "
                "it was written under"
            ) from error
