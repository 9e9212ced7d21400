"""The manifest of an adapter version as it travels in events: everything that never changes about a version.

``version_id`` is the SHA-256 of the manifest's canonical JSON (sorted keys, no white space, UTF-8, no NaN),
and the signature covers the same bytes. So a reader that trusts one public key can check the privacy facts,
the base model and every file digest offline. For that the models here are lossless: what was read is written
again exactly, with integers kept integers, absent fields kept absent and unknown fields kept.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from .errors import InvalidEventError
from .fields import SERVED_NAME_PATTERN, Digest, LineRef, ServedName, WireModel
from .manifest_part import ManifestPart, Name, Number
from .suites import SuitesV1

MANIFEST_FORMAT = "discreet.adapter-manifest.v1"
PAYLOAD_TYPE = b"application/vnd.discreet.adapter-manifest.v1+json"
FILE_NAME_PATTERN = r"^[a-z0-9_]{1,64}\.(safetensors|json)$"

DigestOrEmpty = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]


class ArtifactFileV1(ManifestPart):
    """One file of an artifact: weights or JSON, nothing that can run."""

    path: Annotated[str, Field(pattern=FILE_NAME_PATTERN)]
    media_type: Name
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class BaseFingerprintV1(ManifestPart):
    """Which base model the adapter fits; any difference means: refuse to load."""

    model_id: Name
    revision: Name
    config_digest: DigestOrEmpty
    weights_digest: DigestOrEmpty
    tokenizer_digest: DigestOrEmpty
    chat_template_digest: DigestOrEmpty = ""
    architecture: Name
    dtype: Name


class LoraShapeV1(ManifestPart):
    """What a server must reserve; always inside the portable profile."""

    family: Name
    rank: Annotated[int, Field(ge=1)]
    alpha: Number
    target_modules: tuple[Name, ...]
    layers: tuple[int, ...]
    trainable_parameters: Annotated[int, Field(ge=0)]
    """Numbers that the line's training moved; a file holds more. In versions of before 0.2: those in the file."""
    dtype: Name
    tensor_digest: Digest
    """Over names, dtypes, shapes and bytes of the tensors, independent of the file's framing."""
    profile: Name


class AuditFactsV1(ManifestPart):
    """What canaries in a shadow of the release's mechanism showed: lower bounds on its epsilon, beside the claim."""

    depth: Name
    """How much of the trainer the shadow ran: "mechanism" or "gradients"."""
    canaries: Annotated[int, Field(ge=1)]
    confidence: Number
    """With which all bounds hold at once."""
    delta: Number
    claimed_epsilon: Number
    """Of training alone, by the ledger's accountant."""
    empirical_epsilon: Number
    """The largest of the bounds below; a release with more than is claimed is not published."""
    one_run_epsilon: Number
    trials_epsilon: Number
    noise_ratio_epsilon: Number
    noise_ratio: Number
    """The noise is at most so many times the planned one."""


class ReceiptV1(ManifestPart):
    """What a training process measured of the mechanism it ran; the same for every data set unless it was wrong."""

    type: Literal["discreet.training-receipt"]
    version: Annotated[int, Field(ge=1)]
    mechanism: dict[str, Any]
    """The mechanism that was measured, as the ledger writes mechanisms."""
    plan_digest: Digest
    steps: int
    noise_count: int
    """Numbers of noise that were added in all steps."""
    noise_tolerance: Number
    """Largest relative difference from the asked noise that would have passed."""
    noise_ok: bool
    distinct_steps_ok: bool
    coins_ok: bool
    largest_norm_ok: bool


class SignedReceiptV1(ManifestPart):
    """A receipt with the signature of its round; the public key stands in the reservation's ledger entry."""

    receipt: ReceiptV1
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
    """Base64 of an Ed25519 signature over the receipt's canonical bytes."""


class PrivacyFactsV1(ManifestPart):
    """What the version cost, what its tenant has spent so far, and where the ledger says so."""

    unit: Name
    relation: Name
    mechanism: Name
    accountant: Name
    release_epsilon: Number
    """Proved bound of this release alone."""
    cumulative_epsilon: Number
    """Proved bound of all releases so far, this one included."""
    target_epsilon: Number
    """Lifetime cap of the policy."""
    delta: Number
    noise_multiplier: Number
    sample_rate: Number
    steps: int
    clipping_norm: Number
    contribution_bound: int
    minimum_cohort: int
    reservation_id: Name
    ledger_entry_hash: Annotated[str, Field(min_length=1, max_length=256)]
    """Hash of the committed ledger entry; a server refuses a version without one."""
    plan_digest: Digest
    noisy_cohort: Number | None = None
    receipt: SignedReceiptV1 | None = None
    """Absent from versions of before receipts, and from those that trained on no user."""
    audit: AuditFactsV1 | None = None


class GateCheckV1(ManifestPart):
    """One check before the release."""

    name: Name
    passed: bool
    value: Number | None = None
    threshold: Number | None = None
    detail: Annotated[str, Field(max_length=1024)] = ""
    privacy_epsilon: Number = 0.0
    """0 when only the released weights or public data were used."""


class ActivationProbeV1(ManifestPart):
    """Deprecated: a form of probe that no version has; see ``ActivationV1``."""

    prompt: Annotated[str, Field(max_length=4096)]
    completion: Annotated[str, Field(max_length=4096)]
    base_logprob: Number
    adapter_logprob: Number
    tolerance: Number


TokenId = Annotated[int, Field(ge=0, le=2**31)]
LogProbabilities = Annotated[tuple[Number, ...], Field(min_length=1, max_length=64)]


class ProbePointV1(ManifestPart):
    """One place in a public text, and the log-probability of some next tokens there."""

    after: Annotated[int, Field(ge=1)]
    """So many tokens of the text are read."""
    tokens: Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=64)]
    """Ids of the watched next tokens."""
    base: LogProbabilities
    """Natural logarithm of the probability of each, of the base model."""
    adapter: LogProbabilities
    """The same with the adapter."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if not len(self.tokens) == len(self.base) == len(self.adapter):
            raise ValueError("a point has as many log-probabilities as watched tokens")
        return self


class TokenProbeV1(ManifestPart):
    """A public question in the base's own chat template, and the beginning of its public answer."""

    prompt: Annotated[str, Field(max_length=4096)]
    completion: Annotated[str, Field(max_length=4096)]
    tokens: Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=4096)]
    """Both, as the model reads them: what a server is asked with."""
    points: Annotated[tuple[ProbePointV1, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _points_lie_in_the_text(self) -> Self:
        if any(point.after > len(self.tokens) for point in self.points):
            raise ValueError("a point lies in the probe's text")
        return self


class ActivationV1(ManifestPart):
    """What a server measures again, without and with the adapter, before it says that it serves this version."""

    precision: Name
    """Of the base while this was measured: a key of ``tolerances``."""
    effect: Number
    """Mean absolute change over all watched tokens, nats."""
    tolerances: Annotated[dict[str, Number], Field(min_length=1, max_length=16)]
    """Largest mean difference between a server's changes and these, by the server's precision."""
    probes: Annotated[tuple[TokenProbeV1, ...], Field(min_length=1, max_length=64)]


class EvaluationV1(ManifestPart):
    """The verdict of the gate, and what a server measures again to prove that it applies the adapter."""

    verdict: Name
    checks: tuple[GateCheckV1, ...]
    probes: tuple[ActivationProbeV1, ...] = ()
    """Deprecated and always empty."""
    activation: ActivationV1 | None = None
    """Absent from versions of before it; such a version can be loaded, and not verified."""
    suites: SuitesV1 | None = None
    """Every number of the public suites; absent where they were not asked."""


class LineageV1(ManifestPart):
    """Where the version comes from."""

    round_id: Name
    period_index: int
    start: Name
    start_version_id: Digest | None
    supersedes: Digest | None
    data_digest: Name
    code_digest: Name


class StyleV1(ManifestPart):
    """How the tenant's answers look, as one charged vote of its users found out, and what was made of it.

    It may hold words that many users share: it is for the tenant's own servers, like the weights.
    """

    card: dict[str, Any]
    """The style card: frames and forms with their noisy shares."""
    card_digest: Digest
    prompt: Annotated[str, Field(max_length=8192)]
    """Template for models whose weights nobody can touch: Jinja2, with the variable ``prompt``."""
    pattern: Annotated[str, Field(max_length=8192)] = ""
    """Regular expression for constrained decoding; empty where no frame is common enough."""
    grammar: Annotated[str, Field(max_length=8192)] = ""
    """The same as GBNF."""
    public_part: dict[str, Any] | None = None
    """What part of the weights was made of style cards, earlier ones too where the line remembers, and how many of its
    modules a charged step of training has scaled; null: none."""


class ManifestV1(ManifestPart):
    """All that never changes about a version; no tenant name, no user, no text of one person."""

    format: Literal["discreet.adapter-manifest.v1"]
    line_ref: LineRef
    scope: Name
    version: Annotated[int, Field(ge=1)]
    served_name: Annotated[str, Field(pattern=SERVED_NAME_PATTERN)]
    created_at: Name
    """RFC 3339, UTC."""
    files: Annotated[tuple[ArtifactFileV1, ...], Field(min_length=1, max_length=32)]
    base: BaseFingerprintV1
    lora: LoraShapeV1
    privacy: PrivacyFactsV1
    evaluation: EvaluationV1
    lineage: LineageV1
    style: StyleV1 | None = None
    """Absent where no vote was charged, or nothing was found."""

    def canonical_bytes(self) -> bytes:
        """Return the bytes that are hashed, signed and stored as ``manifest.json``."""
        return canonical_json(json.loads(self.model_dump_json()))


class SignatureV1(WireModel):
    """Ed25519 over the DSSE pre-authentication encoding of the manifest's canonical bytes."""

    key_id: Annotated[str, Field(min_length=1, max_length=128)]
    """First 16 hex digits of the SHA-256 of the raw public key."""
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
    """Base64 of 64 bytes."""
    algorithm: Literal["ed25519"] = "ed25519"


class AdapterVersionV1(WireModel):
    """One immutable version: its manifest, where its files are, and who signed it."""

    version_id: Digest
    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    """Directory of the files; its name contains the digest, so its content never changes."""
    manifest: ManifestV1
    signature: SignatureV1

    @classmethod
    def from_manifest_bytes(cls, manifest: bytes, *, uri: str, key_id: str, signature: str) -> Self:
        """Describe a stored version.

        Args:
            manifest: canonical bytes, as stored in ``manifest.json``.
            uri: directory of the files.
            key_id: short name of the signing key.
            signature: base64 signature over ``signed_bytes(manifest)``.

        Raises:
            InvalidEventError: if the bytes are not a canonical manifest of this contract.
        """
        try:
            version = cls(
                version_id=manifest_digest(manifest),
                uri=uri,
                manifest=ManifestV1.model_validate_json(manifest),
                signature=SignatureV1(key_id=key_id, signature=signature),
            )
        except ValidationError as invalid:
            first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidEventError(f"{where} of the manifest is refused: {first['msg']}") from None
        if version.manifest.canonical_bytes() != manifest:
            raise InvalidEventError("the manifest is not in canonical form; its digest would prove nothing")
        return version

    @property
    def served_name(self) -> ServedName:
        """The name under which servers load it."""
        return self.manifest.served_name


def canonical_json(value: object) -> bytes:
    """Return the one byte string of a JSON value that is hashed and signed.

    Raises:
        ValueError: if the value holds a NaN or an infinity.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def manifest_digest(manifest: bytes) -> str:
    """Return the version id that belongs to a manifest's bytes."""
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


def signed_bytes(manifest: bytes) -> bytes:
    """Return what the signature covers: payload type and manifest, each behind its length (DSSE)."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(manifest), manifest)
