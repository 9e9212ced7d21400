"""Tenant-keyed pseudonyms: the user id of a product stops here.

A pseudonym is an HMAC, so nobody without the tenant's key can tell whether a known user id is among the
stored ones, and the same person in two tenants has two unrelated pseudonyms. It is still personal data:
whoever holds the keys can link it again.

A tenant's pseudonym keys form a chain: the name under the second key is an HMAC of the name under the first, and so on.
So stored names can be replaced by those under a new key without anybody's user id, and who has an old key alone links
nothing that was renamed since. What must stay the same for ever (an event's identity, a signal's rank) is made
from the name under the first key.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCK_BYTES: Final = 64  # of SHA-256
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_GENERATIONS: Final = "ghijklmnopqrstuvwxyz"  # no hexadecimal digit among them


def pseudonym(key: bytes, tenant_id: str, user_id: str) -> str:
    """Return the pseudonym of a user: 64 hex digits of HMAC-SHA256 under the tenant's first key."""
    return hmac.digest(key, _pseudonym_message(tenant_id, user_id), hashlib.sha256).hex()


def renamed(key: bytes, number: int, tenant_id: str, before: str) -> str:
    """Return the pseudonym under the tenant's key ``number`` (2 or more) of whom the key before it named ``before``.

    It begins with a letter that tells the key's names from those of the key before: 63 hex digits follow.
    """
    message = b"rename" + len(tenant_id).to_bytes(1, "big") + tenant_id.encode() + before.encode()
    return names_of(number)[0] + hmac.digest(key, message, hashlib.sha256).hex()[:63]


def names_of(number: int) -> tuple[str, str]:
    """Return the bounds between which the names under a tenant's key ``number`` lie, the second exclusive."""
    if number == 1:
        return "", _GENERATIONS[0]
    letter = _GENERATIONS[(number - 2) % len(_GENERATIONS)]
    return letter, chr(ord(letter) + 1)


def _pseudonym_message(tenant_id: str, user_id: str) -> bytes:
    return b"pseudonym" + len(tenant_id).to_bytes(1, "big") + tenant_id.encode() + user_id.encode()


def eviction_rank(key: bytes, pseudonym_: str, event: bytes) -> bytes:
    """Return the rank (32 bytes) by which ``personalization.signals.bound`` decides which signals of one user stay.

    ``event`` is what tells it from the user's other events: the digest of the sender's source and id.

    It depends on the tenant's first key, this user and this event only: never on other users or on the order of
    arrival.
    """
    message = pseudonym_.encode() + event
    # One per event: the keyed BLAKE2b takes a third of an HMAC's time.
    return hashlib.blake2b(message, key=key, digest_size=32, person=b"discreet rank").digest()


class TenantHashes:
    """``pseudonym`` and ``eviction_rank`` of one tenant for many users: what depends on the keys alone is done once.

    The pseudonym's HMAC (RFC 2104) starts from the two states that hashing the padded key leaves behind.

    Args:
        key: the tenant's first pseudonym key.
        tenant_id: the tenant.
        later: its further pseudonym keys, oldest first.

    Attributes:
        newest: number of the newest key.
    """

    __slots__ = ("_inner", "_later", "_outer", "_rank", "_tenant_id", "newest")

    def __init__(self, key: bytes, tenant_id: str, later: Sequence[bytes] = ()) -> None:
        if len(key) > _BLOCK_BYTES:
            raise ValueError(f"the key has {len(key)} bytes; allowed are at most {_BLOCK_BYTES}")
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER_PAD) + _pseudonym_message(tenant_id, ""))
        self._outer = hashlib.sha256(padded.translate(_OUTER_PAD))
        self._rank = hashlib.blake2b(key=key, digest_size=32, person=b"discreet rank")
        self._later = tuple(later)
        self._tenant_id = tenant_id
        self.newest = 1 + len(self._later)

    def first(self, user_id: str) -> str:
        """Return the user's name under the first key, from which identities and ranks are made."""
        inner = self._inner.copy()
        inner.update(user_id.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    def names(self, first: str) -> list[str]:
        """Return all names of the user whose first is given, oldest first; the last is the pseudonym."""
        found = [first]
        for number, key in enumerate(self._later, 2):
            found.append(renamed(key, number, self._tenant_id, found[-1]))
        return found

    def renamed(self, before: str) -> str:
        """Return the name under the newest key (not the first) of whom the key before it named ``before``."""
        return renamed(self._later[-1], self.newest, self._tenant_id, before)

    def brought_up(self, name: str) -> str:
        """Return the name under the newest key of whom any of the tenant's keys named ``name``."""
        number = 1
        if name[0] in _GENERATIONS:
            number = 2 + _GENERATIONS.index(name[0])
            number += max(0, self.newest - number) // len(_GENERATIONS) * len(_GENERATIONS)
        for later, key in enumerate(self._later, 2):
            if later > number:
                name = renamed(key, later, self._tenant_id, name)
        return name

    def pseudonym(self, user_id: str) -> str:
        """Return the pseudonym of a user: the name under the newest key."""
        first = self.first(user_id)
        return self.names(first)[-1] if self._later else first

    def eviction_rank(self, first: str, event: bytes) -> bytes:
        """Return the rank of an event of the user with this first name, see ``eviction_rank``."""
        rank = self._rank.copy()
        rank.update(first.encode() + event)
        return rank.digest()
