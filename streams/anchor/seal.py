"""Signatures of anchored records, with a key of their own: whoever may ingest must not be able to sign adapters."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from personalization.adapters.signing import ManifestSigner, key_id
from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.client.errors import SignatureInvalidError
from streams.client.signatures import TrustedKeys
from streams.contracts.codec import Record, encode, record_key
from streams.contracts.envelope import new_envelope
from streams.contracts.signed_record import KEY_ID_HEADER, SIGNATURE_HEADER, signed_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from streams.contracts.fields import WireModel

SOURCE = "urn:discreet:anchor"


def anchor_seed(master_key: bytes) -> bytes:
    """Return the seed of the signing key that the anchor had as long as it was derived from the master key."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"discreet anchor").derive(master_key)


class AnchorSeal:
    """Signs and checks records of the anchor.

    Args:
        seed: returns 32 secret bytes; it is asked at first use, for it may ask the key store.
        earlier: seeds of keys that signed before, see ``anchor_seed``; what they signed still counts.
    """

    def __init__(self, seed: Callable[[], bytes], earlier: Iterable[bytes] = ()) -> None:
        self._seed = seed
        self._earlier = tuple(earlier)

    @cached_property
    def _signer(self) -> ManifestSigner:
        return ManifestSigner(self._seed())

    @cached_property
    def _trusted(self) -> TrustedKeys:
        earlier = (ManifestSigner(one).public_key for one in self._earlier)
        return TrustedKeys([self._signer.public_key, *earlier])

    def sealed(self, kind: Kind, event: WireModel, event_type: str, at: datetime) -> Record:
        """Return an event as a signed record.

        Raises:
            BoundaryError: a field of it has no mark.
        """
        BOUNDARY.release(kind, event, event.model_dump(mode="json"))
        name = record_key(event).decode()
        record = encode(event, new_envelope(event_id=name, source=SOURCE, event_type=event_type, time=at))
        signature = self._signer.sign_bytes(
            signed_bytes(record.topic, record.key, record.headers, record.value)
        )
        headers = [
            *record.headers,
            (KEY_ID_HEADER, signature.key_id.encode()),
            (SIGNATURE_HEADER, signature.signature.encode()),
        ]
        return record._replace(headers=headers)

    def genuine(self, record: Record) -> bool:
        """Say whether one of our keys signed the record."""
        try:
            self._trusted.check_record(record.topic, record.key, record.headers, record.value)
        except SignatureInvalidError:
            return False
        return True

    def outdated(self, record: Record) -> bool:
        """Say whether a key that signed before signed this genuine record, and not the present one."""
        named = dict(record.headers).get(KEY_ID_HEADER)
        return named != key_id(self._signer.public_key).encode()
