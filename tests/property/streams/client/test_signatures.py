"""The verification in plain Python agrees with ``cryptography`` on everything."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.client import signatures
from streams.client.testing.adapters import FakeSigner


def verified_by_cryptography(public_key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# RFC 8032 §7.1, tests 1 to 3: public key, message, the two halves of the signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155",
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac",
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "point", "scalar"), VECTORS)
def test_the_vectors_of_the_standard(key, message, point, scalar):
    key, message, signature = map(bytes.fromhex, (key, message, point + scalar))
    assert signatures.verify_in_python(key, signature, message)
    assert not signatures.verify_in_python(key, signature, message + b"x")


@settings(max_examples=15)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 511))
def test_signatures_verify_and_one_changed_bit_does_not(seed, message, bit):
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    signature = private.sign(message)
    assert signatures.verify_in_python(public, signature, message)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not signatures.verify_in_python(public, bytes(changed), message)
    fake = FakeSigner(seed)
    assert fake.public_key == public
    assert fake.sign(message) == signature


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_arbitrary_keys_and_signatures_are_judged_as_cryptography_does(key, signature):
    assert signatures.verify_in_python(key, signature, b"m") is verified_by_cryptography(key, signature, b"m")


def test_a_signature_with_a_too_large_scalar_is_refused():
    private = Ed25519PrivateKey.generate()
    signature = private.sign(b"m")
    scalar = int.from_bytes(signature[32:], "little") + signatures.ORDER
    forged = signature[:32] + scalar.to_bytes(32, "little")
    assert not signatures.verify_in_python(private.public_key().public_bytes_raw(), forged, b"m")


@pytest.mark.parametrize(("key", "signature"), [(b"", b"x" * 64), (b"k" * 32, b""), (b"k" * 31, b"x" * 64)])
def test_wrong_lengths_are_refused(key, signature):
    assert not signatures.verify_in_python(key, signature, b"m")
    assert not signatures.verify(key, signature, b"m")


def test_verification_does_without_cryptography(monkeypatch):
    import sys

    signer = FakeSigner()
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    assert signatures.verify(signer.public_key, signer.sign(b"m"), b"m")
    assert not signatures.verify(signer.public_key, signer.sign(b"m"), b"n")


def test_a_public_key_has_32_bytes():
    with pytest.raises(ValueError, match="32"):
        signatures.TrustedKeys([b"short"])
