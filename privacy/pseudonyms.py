"""Tenant-keyed pseudonyms: the user id of a product stops here.

A pseudonym is an HMAC, so nobody without the tenant's key can tell whether a known user id is among the
stored ones, and the same person in two tenants has two unrelated pseudonyms. It is still personal data:
whoever holds the key can link it again.
"""

from __future__ import annotations

import hashlib
import hmac


def pseudonym(key: bytes, tenant_id: str, user_id: str) -> str:
    """Return the pseudonym of a user: 64 hex digits of HMAC-SHA256 under the tenant's key."""
    message = len(tenant_id).to_bytes(1, "big") + tenant_id.encode() + user_id.encode()
    return hmac.digest(key, b"pseudonym" + message, hashlib.sha256).hex()


def eviction_rank(key: bytes, pseudonym_: str, event_digest: bytes) -> bytes:
    """Return the rank (32 bytes) by which ``privacy.contribution`` decides which signals of one user stay.

    It depends on the tenant's key, this user and this event only: never on other users or on the order of
    arrival.
    """
    message = pseudonym_.encode() + event_digest
    # One per event: the keyed BLAKE2b takes a third of an HMAC's time.
    return hashlib.blake2b(message, key=key, digest_size=32, person=b"discreet rank").digest()


def line_reference(key: bytes, domain: str) -> str:
    """Return the pseudonymous name of a tenant's adapter line: 16 hex digits that tell outsiders nothing."""
    return hmac.digest(key, b"line" + domain.encode(), hashlib.sha256).hex()[:16]
