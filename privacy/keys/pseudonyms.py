"""Tenant-keyed pseudonyms: the user id of a product stops here.

A pseudonym is an HMAC, so nobody without the tenant's key can tell whether a known user id is among the
stored ones, and the same person in two tenants has two unrelated pseudonyms. It is still personal data:
whoever holds the key can link it again.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

_BLOCK_BYTES: Final = 64  # of SHA-256
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))


def pseudonym(key: bytes, tenant_id: str, user_id: str) -> str:
    """Return the pseudonym of a user: 64 hex digits of HMAC-SHA256 under the tenant's key."""
    return hmac.digest(key, _pseudonym_message(tenant_id, user_id), hashlib.sha256).hex()


def _pseudonym_message(tenant_id: str, user_id: str) -> bytes:
    return b"pseudonym" + len(tenant_id).to_bytes(1, "big") + tenant_id.encode() + user_id.encode()


def eviction_rank(key: bytes, pseudonym_: str, event: bytes) -> bytes:
    """Return the rank (32 bytes) by which ``personalization.signals.bound`` decides which signals of one user stay.

    ``event`` is what tells it from the user's other events: the digest of the sender's source and id.

    It depends on the tenant's key, this user and this event only: never on other users or on the order of
    arrival.
    """
    message = pseudonym_.encode() + event
    # One per event: the keyed BLAKE2b takes a third of an HMAC's time.
    return hashlib.blake2b(message, key=key, digest_size=32, person=b"discreet rank").digest()


class TenantHashes:
    """``pseudonym`` and ``eviction_rank`` of one tenant for many users: what depends on the key alone is done once.

    The pseudonym's HMAC (RFC 2104) starts from the two states that hashing the padded key leaves behind.
    """

    __slots__ = ("_inner", "_outer", "_rank")

    def __init__(self, key: bytes, tenant_id: str) -> None:
        if len(key) > _BLOCK_BYTES:
            raise ValueError(f"the key has {len(key)} bytes; allowed are at most {_BLOCK_BYTES}")
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER_PAD) + _pseudonym_message(tenant_id, ""))
        self._outer = hashlib.sha256(padded.translate(_OUTER_PAD))
        self._rank = hashlib.blake2b(key=key, digest_size=32, person=b"discreet rank")

    def pseudonym(self, user_id: str) -> str:
        """Return the pseudonym of a user, see ``pseudonym``."""
        inner = self._inner.copy()
        inner.update(user_id.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    def eviction_rank(self, pseudonym_: str, event: bytes) -> bytes:
        """Return the rank of an event, see ``eviction_rank``."""
        rank = self._rank.copy()
        rank.update(pseudonym_.encode() + event)
        return rank.digest()
