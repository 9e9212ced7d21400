"""Seal what is remembered with a key of memory alone: a gateway needs it, and must not be able to open users' texts.

Each tenant has a key of its own, derived from the memory key, and every value is bound to its row; so what stands in
another tenant's row, or was moved, does not open. Versions of collections are signed with a key derived from it too:
who may approve documents may say which ones stand in a collection, and a database alone can sign neither.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from personalization.adapters.signing import ManifestSigner, key_id
from personalization.memory.values import Chunk
from privacy.errors import KeyUnavailableError
from privacy.keys.envelope import KEY_BYTES, Cipher, associated, sealed_under

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from personalization.adapters.manifest import Signature


class MemoryKeys:
    """The memory key, and those before it that still open what they sealed.

    Args:
        newest: 32 bytes.
        older: keys that were used before.

    Attributes:
        public_keys: raw keys that verify what they signed, by short name.
    """

    def __init__(self, newest: bytes, older: Sequence[bytes] = ()) -> None:
        for key in (newest, *older):
            if len(key) != KEY_BYTES:
                raise KeyUnavailableError(
                    f"a memory key has {len(key)} bytes; allowed are exactly {KEY_BYTES}"
                )
        self._keys = (newest, *older)
        self._ciphers: dict[str, tuple[Cipher, ...]] = {}
        self._signer = ManifestSigner(_signing_seed(newest))
        public = (self._signer.public_key, *(ManifestSigner(_signing_seed(key)).public_key for key in older))
        self.public_keys = {key_id(one): one for one in public}

    def seal(self, plain: bytes, tenant_id: str, *row: str) -> bytes:
        """Return bytes sealed for one row of a tenant."""
        return self._of(tenant_id)[0].seal(plain, associated("memory", tenant_id, *row))

    def open(self, sealed: bytes, tenant_id: str, *row: str) -> bytes:
        """Return what was sealed for that row.

        Raises:
            KeyUnavailableError: it was sealed with another key, for another tenant or for another row.
        """
        name = sealed_under(sealed)
        for cipher in self._of(tenant_id):
            if cipher.key_id == name:
                return cipher.open(sealed, associated("memory", tenant_id, *row))
        raise KeyUnavailableError(
            "a remembered document was sealed with another memory key; put that one into DISCREET_MEMORY__OLDER_KEYS"
        )

    def sign(self, payload: bytes) -> Signature:
        """Return the signature of bytes that say which documents stand in a collection."""
        return self._signer.sign_bytes(payload)

    def vouched(self, name: str, signature: str, payload: bytes) -> bool:
        """Say whether the key of that name, one of these, signed some bytes."""
        key = self.public_keys.get(name)
        if key is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(
                base64.b64decode(signature, validate=True), payload
            )
        except (InvalidSignature, ValueError):
            return False
        return True

    def _of(self, tenant_id: str) -> tuple[Cipher, ...]:
        found = self._ciphers.get(tenant_id)
        if found is None:
            found = self._ciphers[tenant_id] = tuple(Cipher(_derived(key, tenant_id)) for key in self._keys)
        return found


def content_bytes(title: str, source: str, chunks: Sequence[Chunk]) -> bytes:
    """Return what a document says as bytes; ``content_of`` reads them back."""
    document = {"title": title, "source": source, "chunks": [asdict(chunk) for chunk in chunks]}
    return json.dumps(document, ensure_ascii=False).encode()


def content_of(plain: bytes) -> tuple[str, str, tuple[Chunk, ...]]:
    """Return title, source and passages."""
    document: dict[str, Any] = json.loads(plain)
    chunks = tuple(Chunk(**{**one, "marks": tuple(one["marks"])}) for one in document["chunks"])
    return document["title"], document["source"], chunks


def vector_bytes(vectors: NDArray[np.float32]) -> bytes:
    """Return vectors as half-precision bytes: half the room, and no similarity moves by more than 0.001."""
    return vectors.astype("<f2").tobytes()


def vectors_of(plain: bytes, rows: int) -> NDArray[np.float32]:
    """Return ``rows`` vectors."""
    return np.frombuffer(plain, "<f2").astype(np.float32).reshape(rows, -1)


def _derived(key: bytes, tenant_id: str) -> bytes:
    return HKDF(
        algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"discreet memory\0" + tenant_id.encode()
    ).derive(key)


def _signing_seed(key: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"discreet memory signing").derive(key)
