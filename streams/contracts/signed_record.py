"""Signatures of whole records: the desired state of an adapter line, tombstones included.

Write access to a topic is not enough to say what servers hold: an Ed25519 signature in two headers covers topic, key,
``ce_sequence`` (the epoch) and the value byte for byte, or that there is none. So neither a tombstone with an epoch of
somebody's choice nor an old version under a new epoch counts. Readers that know no such headers ignore them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KEY_ID_HEADER = "discreet_key_id"
"""Short name of the public key that the signature fits."""

SIGNATURE_HEADER = "discreet_signature"
"""Base64 of the signature."""

_DOMAIN = b"discreet-record-v1"  # no manifest's encoding and no JSON begins so


def signed_bytes(
    topic: str,
    key: bytes | None,
    headers: Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]] | None,
    value: bytes | None,
) -> bytes:
    """Return what the signature of a record covers; each part stands after its length, so that none runs on.

    Args:
        topic: full name.
        key: record key.
        headers: of which ``ce_type`` and ``ce_sequence`` are covered.
        value: record value; ``None`` is a tombstone, which no empty value can stand for.
    """
    found: Mapping[str, bytes | None] = dict(headers or ())
    parts = (
        topic.encode(),
        key or b"",
        found.get("ce_type") or b"",
        found.get("ce_sequence") or b"",
        b"tombstone" if value is None else b"value",
        value or b"",
    )
    return _DOMAIN + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
