"""Ed25519 verification: whether a manifest was signed by a key we trust.

Uses ``cryptography`` where it is installed. Without it the verification of RFC 8032 §5.1.7 runs in plain
Python (some milliseconds each), so that the client needs nothing more than kafka-python and pydantic. Only
public values are involved, so there is no secret that a slow path could leak.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from ..contracts.erasure import ErasureCertificateV1
from ..contracts.manifest import AdapterVersionV1, manifest_digest, signed_bytes
from ..contracts.signed_record import KEY_ID_HEADER, SIGNATURE_HEADER
from ..contracts.signed_record import signed_bytes as signed_record_bytes
from .errors import DigestMismatchError, SignatureInvalidError

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)
BASE_Y = 4 * pow(5, -1, P) % P

Point = tuple[int, int, int, int]
"""Extended homogeneous coordinates (X, Y, Z, T) with x = X/Z, y = Y/Z, x·y = T/Z."""


class TrustedKeys:
    """The public keys whose signatures count.

    Args:
        public_keys: raw Ed25519 keys, 32 bytes each; more than one while keys are exchanged.
    """

    def __init__(self, public_keys: Iterable[bytes]) -> None:
        keys = list(public_keys)
        if any(len(key) != 32 for key in keys):
            raise ValueError("a public key is 32 raw bytes")
        self._keys = {key_id(key): key for key in keys}

    def check(self, version: AdapterVersionV1) -> None:
        """Check that the version's manifest is the one its id names and that a trusted key signed it.

        Raises:
            DigestMismatchError: if the manifest was changed after its id was made.
            SignatureInvalidError: if the key is not trusted or the signature does not fit.
        """
        manifest = version.manifest.canonical_bytes()
        if manifest_digest(manifest) != version.version_id:
            raise DigestMismatchError("the manifest in the event does not match its version id; refuse it")
        key = self._keys.get(version.signature.key_id)
        if key is None:
            raise SignatureInvalidError(
                "the manifest is signed with a key that is not trusted; add it or refuse"
            )
        signature = base64.b64decode(version.signature.signature)
        if not verify(key, signature, signed_bytes(manifest)):
            raise SignatureInvalidError("the signature does not fit the manifest; refuse the adapter")

    def check_certificate(self, certificate: ErasureCertificateV1) -> None:
        """Check that a trusted key signed the certificate of an erasure.

        Raises:
            SignatureInvalidError: if it is not signed, the key is not trusted or the signature does not fit.
        """
        key = self._keys.get(certificate.key_id or "")
        if key is None or certificate.signature is None:
            raise SignatureInvalidError("the certificate is not signed with a trusted key; ask who issued it")
        try:
            signature = base64.b64decode(certificate.signature, validate=True)
        except ValueError:
            signature = b""
        if not verify(key, signature, certificate.signed_bytes()):
            raise SignatureInvalidError("the signature does not fit the certificate; do not rely on it")

    def check_record(
        self,
        topic: str,
        key: bytes | None,
        headers: Iterable[tuple[str, bytes | None]],
        value: bytes | None,
    ) -> None:
        """Check that a trusted key signed the whole record (``contracts.signed_record``).

        Raises:
            SignatureInvalidError: if it is not signed, the key is not trusted or the signature does not fit.
        """
        found = dict(headers)
        name = (found.get(KEY_ID_HEADER) or b"").decode(errors="replace")
        trusted = self._keys.get(name)
        if trusted is None:
            raise SignatureInvalidError(
                "the record is not signed with a trusted key; refuse it, add the key, or have the line announced again"
            )
        try:
            signature = base64.b64decode(found.get(SIGNATURE_HEADER) or b"", validate=True)
        except ValueError:
            signature = b""
        if not verify(trusted, signature, signed_record_bytes(topic, key, found, value)):
            raise SignatureInvalidError("the signature does not fit the record; refuse it")


def key_id(public_key: bytes) -> str:
    """Return the short name of a raw public key: 16 hex digits."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether ``signature`` (64 bytes) of ``message`` was made with ``public_key`` (32 bytes)."""
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - optional
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    except ImportError:
        return verify_in_python(public_key, signature, message)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_in_python(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Do the same as ``verify`` without ``cryptography``: check S·B = R + k·A (RFC 8032 §5.1.7)."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key_point = _decode(public_key)
    nonce_point = _decode(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key_point is None or nonce_point is None or scalar >= ORDER:
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    left = multiply(scalar, BASE)
    right = _add(nonce_point, multiply(challenge, key_point))
    return _same(left, right)


def _recover_x(y: int, sign: int) -> int | None:
    """Return the x of a curve point with that y and that lowest bit, or ``None`` (RFC 8032 §5.1.3)."""
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P != 0:
        x = x * SQRT_MINUS_ONE % P
    if (x * x - square) % P != 0 or (x == 0 and sign == 1):
        return None
    return P - x if x & 1 != sign else x


def _decode(encoded: bytes) -> Point | None:
    number = int.from_bytes(encoded, "little")
    y = number & ((1 << 255) - 1)
    x = _recover_x(y, number >> 255)
    return None if x is None else (x, y, 1, x * y % P)


def _add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar: int, point: Point) -> Point:
    """Return ``scalar`` times ``point``; not in constant time, so never for a real secret."""
    result: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def encode_point(point: Point) -> bytes:
    """Return the 32-byte form of a point (RFC 8032 §5.1.2)."""
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _same(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


_base_x = _recover_x(BASE_Y, 0)
assert _base_x is not None
BASE: Point = (_base_x, BASE_Y, 1, _base_x * BASE_Y % P)
