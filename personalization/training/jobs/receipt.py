"""What a training child measured of the mechanism it ran, signed with a key of the round; no torch here.

A receipt is published, in the manifest, so it may say nothing about anyone. The number of users, their norms and
their draws stay in the child: the outcomes of their checks are the same for every data set unless the program is wrong.
The *moments of the noise* stay there too. Noise alone is independent of the data, but it is released a second time,
inside the noisy sums: whoever knew its exact mean could subtract it from the mean of a noisy sum, and whoever knew its
exact length could tell a sum of nobody from any other. So a receipt says within which public tolerance the noise agreed
with what was asked for, a function of how many numbers there were, and the child destroys a run whose noise did not.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.canonical import canonical_json
from privacy.mechanisms.documents import from_document as mechanism_from_document
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

RECEIPT_TYPE: Final = "discreet.training-receipt"
VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was measured of one run, as public values.

    Attributes:
        mechanism: what was run: its noise multiplier is the one asked for, which the applied noise agreed with to
            within ``noise_tolerance``; its rate is the one whose coins fell.
        plan_digest: of the plan that was run.
        steps: how many steps were counted.
        noise_count: how many numbers of noise were added, in all steps together.
        noise_tolerance: largest relative difference from the asked standard deviation that would have passed; public, a
            function of ``noise_count`` alone.
        noise_ok: mean and deviation of the noise that was added, over all steps and in each, agree with what was asked.
        distinct_steps_ok: no step's noise repeats another's.
        coins_ok: every step took exactly the users whose coins fell, worked out anew from the keystream.
        largest_norm_ok: no user's row in a sum was longer than the clipping norm, in whole numbers.
    """

    mechanism: PoissonSampledGaussian
    plan_digest: str
    steps: int
    noise_count: int
    noise_tolerance: float
    noise_ok: bool
    distinct_steps_ok: bool
    coins_ok: bool
    largest_norm_ok: bool

    @property
    def departures(self) -> tuple[str, ...]:
        """What differs from the mechanism that the receipt names, in words; empty where everything agrees."""
        return departures(
            steps_ok=self.steps == self.mechanism.steps,
            noise_ok=self.noise_ok,
            distinct_steps_ok=self.distinct_steps_ok,
            coins_ok=self.coins_ok,
            largest_norm_ok=self.largest_norm_ok,
        )

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document; ``from_document`` reads it back to an equal receipt."""
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "mechanism": self.mechanism.to_document(),
            "type": RECEIPT_TYPE,
            "version": VERSION,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form.

        Raises:
            ValueError: another type or version, or the fields are not a receipt's.
        """
        values = dict(document)
        if (values.pop("type", None), values.pop("version", None)) != (RECEIPT_TYPE, VERSION):
            raise ValueError(f"the document is no {RECEIPT_TYPE} of version {VERSION}")
        kinds = {
            "plan_digest": str, "steps": int, "noise_count": int, "noise_tolerance": float, "noise_ok": bool,
            "distinct_steps_ok": bool, "coins_ok": bool, "largest_norm_ok": bool, "mechanism": dict,
        }  # fmt: skip
        if set(values) != set(kinds) or any(type(values[name]) is not kind for name, kind in kinds.items()):
            raise ValueError(f"a receipt has exactly the fields {', '.join(sorted(kinds))}")
        mechanism = mechanism_from_document(values.pop("mechanism"))
        if not isinstance(mechanism, PoissonSampledGaussian):
            raise ValueError(  # noqa: TRY004  the document's value is wrong, as above
                "a receipt is of a Poisson-sampled Gaussian mechanism; this one is not"
            )
        return cls(mechanism=mechanism, **values)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical_json(self.to_document())


@dataclass(frozen=True, kw_only=True)
class SignedReceipt:
    """A receipt and the Ed25519 signature of its canonical bytes, made with the key of its round."""

    receipt: Receipt
    signature: str = field(repr=False)  # base64

    @classmethod
    def of(cls, receipt: Receipt, receipt_key: bytes) -> Self:
        """Sign a receipt with the 32 secret bytes of its round."""
        raw = Ed25519PrivateKey.from_private_bytes(receipt_key).sign(receipt.to_bytes())
        return cls(receipt=receipt, signature=base64.b64encode(raw).decode())

    def verify(self, public_key: bytes) -> None:
        """Check that the key whose public half (raw, 32 bytes) this is signed the receipt.

        Raises:
            ValueError: the signature does not fit.
        """
        try:
            raw = base64.b64decode(self.signature, validate=True)
            Ed25519PublicKey.from_public_bytes(public_key).verify(raw, self.receipt.to_bytes())
        except (InvalidSignature, binascii.Error, ValueError) as error:
            raise ValueError("the receipt is not signed with the key of its round") from error

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document; ``from_document`` reads it back to an equal value."""
        return {"receipt": self.receipt.to_document(), "signature": self.signature}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form.

        Raises:
            ValueError: the document is no signed receipt.
        """
        if set(document) != {"receipt", "signature"} or not isinstance(document["signature"], str):
            raise ValueError("a signed receipt has exactly the fields receipt and signature")
        return cls(receipt=Receipt.from_document(document["receipt"]), signature=document["signature"])


def public_key_of(receipt_key: bytes) -> bytes:
    """Return the raw public half (32 bytes) of a round's receipt key."""
    return Ed25519PrivateKey.from_private_bytes(receipt_key).public_key().public_bytes_raw()


def departures(
    *, steps_ok: bool, noise_ok: bool, distinct_steps_ok: bool, coins_ok: bool, largest_norm_ok: bool
) -> tuple[str, ...]:
    """Return what the checks found wrong, in words."""
    checks = (
        (steps_ok, "the steps are not those that were asked for"),
        (noise_ok, "the noise that was added is not the noise that was asked for"),
        (distinct_steps_ok, "two steps added the same noise"),
        (coins_ok, "the users of a step are not those whose coins fell"),
        (largest_norm_ok, "a user's row was longer than the clipping norm"),
    )
    return tuple(text for agrees, text in checks if not agrees)
