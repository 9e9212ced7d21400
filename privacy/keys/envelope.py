"""Authenticated encryption of small values, and keys wrapped by keys (AES-256-GCM, NIST SP 800-38D).

A sealed value is

    version 2   one byte 2, the 8 bytes that name the key, a random 96-bit nonce, the ciphertext with its 128-bit tag
    version 1   one byte 1, the nonce, the ciphertext with its tag (read only; written before keys had names)

The associated data name what the value is, whose, and the row that it belongs to, so that a value copied to another
row, user or tenant does not open. From version 2 on they cover the version and the key's name as well.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.errors import KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_NONCES_AT_ONCE: Final = 1024
_NAMELESS: Final = b"\x01"
_NAMED: Final = b"\x02"
_HEAD_BYTES: Final = 1 + KEY_ID_BYTES


def new_key() -> bytes:
    """Return 32 random bytes from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def key_id_of(key: bytes) -> bytes:
    """Return the 8 bytes that name a key: the start of a hash of it, which gives nothing of it away."""
    return hashlib.sha256(b"discreet key id\0" + key).digest()[:KEY_ID_BYTES]


def associated(*parts: str) -> bytes:
    """Return ``parts`` as associated data, each with its length, so that no two lists of parts look alike."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = part.encode()
        pieces += (len(encoded).to_bytes(4, "big"), encoded)
    return b"".join(pieces)


def new_nonces() -> Iterator[bytes]:
    """Yield random nonces for ``Cipher.seal``; the operating system is asked once for many."""
    while True:
        drawn = secrets.token_bytes(_NONCE_BYTES * _NONCES_AT_ONCE)
        for start in range(0, len(drawn), _NONCE_BYTES):
            yield drawn[start : start + _NONCE_BYTES]


def sealed_under(sealed: bytes) -> bytes | None:
    """Return the name of the key that a value was sealed with; ``None`` for one of before keys had names."""
    return sealed[1:_HEAD_BYTES] if sealed[:1] == _NAMED and len(sealed) > _HEAD_BYTES else None


class Cipher:
    """One key, ready to seal and open; its ``repr`` shows nothing of it.

    Attributes:
        key_id: the 8 bytes that name the key.
    """

    __slots__ = ("_aead", "_head", "key_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise KeyUnavailableError(f"a key has {len(key)} bytes; allowed are exactly {KEY_BYTES}")
        self._aead = AESGCM(key)
        self.key_id = key_id_of(key)
        self._head = _NAMED + self.key_id

    def seal(self, plaintext: bytes, associated_data: bytes, nonce: bytes | None = None) -> bytes:
        """Return ``plaintext`` encrypted and bound to ``associated_data``.

        Args:
            plaintext: what to seal.
            associated_data: what the value is, whose, and of which row.
            nonce: one of ``new_nonces``, never used before with any key; by default a new one.
        """
        if nonce is None:
            nonce = secrets.token_bytes(_NONCE_BYTES)
        head = self._head
        return b"".join((head, nonce, self._aead.encrypt(nonce, plaintext, head + associated_data)))

    def open(self, sealed: bytes, associated_data: bytes, *, nameless: bytes | None = None) -> bytes:
        """Return the plaintext of ``sealed``.

        Args:
            sealed: what ``seal`` returned.
            associated_data: what it was bound to.
            nameless: what a value of version 1 was bound to; without, none is opened.

        Raises:
            KeyUnavailableError: the key, the associated data or a byte of ``sealed`` is another one.
        """
        if sealed[:_HEAD_BYTES] == self._head:
            rest, bound = sealed[_HEAD_BYTES:], self._head + associated_data
        elif sealed[:1] == _NAMELESS and nameless is not None:
            rest, bound = sealed[1:], nameless
        elif sealed[:1] == _NAMED:
            raise KeyUnavailableError(
                "a sealed value does not open with this key; it was sealed with another one"
            )
        else:
            raise KeyUnavailableError(
                "a sealed value has an unknown form; it was not written by this version"
            )
        try:
            return self._aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], bound)
        except (InvalidTag, ValueError) as error:
            raise KeyUnavailableError(
                "a sealed value does not open with this key; check that the configured master key is the one "
                "it was written under"
            ) from error
