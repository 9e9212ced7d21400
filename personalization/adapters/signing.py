"""Ed25519 signatures: over manifests in the encoding of DSSE (its protocol.md), over certificates as JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from personalization.adapters.manifest import Signature

if TYPE_CHECKING:
    from collections.abc import Collection

    from personalization.adapters.manifest import AdapterManifest

PAYLOAD_TYPE = b"application/vnd.discreet.adapter-manifest.v1+json"


def pre_authentication_encoding(payload: bytes) -> bytes:
    """Return the bytes that are signed: type and payload, each behind its length."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(payload), payload)


def key_id(public_key: bytes) -> str:
    """Return the short name of a raw 32-byte public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def signing_seed(master_key: bytes) -> bytes:
    """Return the seed that versions were signed with until keys of their own signed them: that of the master key."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"discreet adapter signing").derive(master_key)


def signed_by(keys: Collection[bytes], payload: bytes, *, key: str, signature: str) -> bool:
    """Say whether one of these public keys signed bytes, under the short name that the signature gives.

    Args:
        keys: raw, 32 bytes each.
        payload: what is signed.
        key: short name of the key that is said to have signed it.
        signature: base64.
    """
    for public_key in keys:
        if key_id(public_key) == key:
            try:
                raw = base64.b64decode(signature, validate=True)
                Ed25519PublicKey.from_public_bytes(public_key).verify(raw, payload)
            except (InvalidSignature, binascii.Error, ValueError):
                return False
            return True
    return False


class ManifestSigner:
    """Signs manifests with one private key.

    Args:
        seed: 32 secret bytes that belong to nothing else.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()

    def sign(self, manifest: AdapterManifest) -> Signature:
        """Return the signature of the manifest's canonical bytes."""
        return self.sign_bytes(pre_authentication_encoding(manifest.to_bytes()))

    def sign_bytes(self, payload: bytes) -> Signature:
        """Return the signature of bytes that can be no manifest's encoding, such as a JSON document's."""
        raw = self._key.sign(payload)
        return Signature(key_id=key_id(self.public_key), signature=base64.b64encode(raw).decode())
