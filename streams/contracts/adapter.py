"""Adapter events (what happened) and adapter state (what servers should hold now).

``AdapterEventV1`` is appended for audit. ``AdapterStateV1`` is the desired state of one adapter line on the
compacted topic: a server that starts reads that topic to its end and knows everything it has to hold.

Order along a line is (``epoch``, ``revision``). The epoch never falls along a line; it rises when a new
owner of the line takes over (fencing). The revision rises by at least one with every state. Versions cannot
give the order: a roll-back goes to a lower version on purpose.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .fields import Digest, LineRef, Moment, ServedName, Slug, WireModel
from .topics import (
    ADAPTER_DECLINED,
    ADAPTER_PROMOTED,
    ADAPTER_PUBLISHED,
    ADAPTER_REVOKED,
    ADAPTER_ROLLED_BACK,
    ADAPTER_ROLLOUT_ADVANCED,
)

Name = Annotated[str, Field(min_length=1, max_length=256)]
NonNegative = Annotated[float, Field(ge=0)]


class ArtifactFileV1(WireModel):
    """One file of an artifact."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
    """Name inside the artifact's directory; no folders."""
    size_bytes: Annotated[int, Field(ge=0)]
    digest: Digest
    media_type: Name = "application/octet-stream"


class ArtifactV1(WireModel):
    """Where the weights are and how to check them."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    """Directory that holds the files; its name contains the digest, so it never changes."""
    format: Literal["peft-lora-safetensors"] = "peft-lora-safetensors"
    files: Annotated[tuple[ArtifactFileV1, ...], Field(min_length=1, max_length=32)]
    total_bytes: Annotated[int, Field(ge=0)]
    manifest_digest: Digest
    """SHA-256 of the bytes of ``manifest.json``; the same as ``version_id``."""
    tensor_digest: Digest | None = None
    """Digest over names, dtypes, shapes and bytes of the tensors, independent of the file's framing."""
    created_at: Moment


class BaseFingerprintV1(WireModel):
    """Which base model the adapter belongs to; any difference means refuse to load."""

    model_id: Name
    revision: Name | None = None
    config_digest: Digest
    weights_digest: Digest
    tokenizer_digest: Digest | None = None
    chat_template_digest: Digest | None = None
    architecture: Name
    dtype: Name


class LoraShapeV1(WireModel):
    """The portable LoRA profile that any server loads."""

    rank: Annotated[int, Field(ge=1, le=512)]
    alpha: Annotated[float, Field(gt=0)]
    target_modules: Annotated[tuple[Name, ...], Field(min_length=1)]
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    """Adapted decoder layers, counted from the input."""
    family: Slug | None = None
    parameters: Annotated[int, Field(ge=1)]
    dtype: Name
    rslora: Literal[False] = False
    dora: Literal[False] = False
    bias: Literal["none"] = "none"
    profile: Literal["portable-lora-v1"] = "portable-lora-v1"


class PrivacyStatementV1(WireModel):
    """What is proved about the version, and where the ledger says so."""

    unit: Name = "user"
    relation: Name = "add_or_remove_one"
    mechanism: Name
    accountant: Name
    epsilon: NonNegative
    """Proved bound of all releases of the tenant so far, this one included."""
    delta: Annotated[float, Field(ge=0, lt=1)]
    target_epsilon: NonNegative
    """Lifetime cap of the tenant's policy."""
    release_epsilon: NonNegative | None = None
    """Bound of this release alone, at the same delta."""
    noise_multiplier: NonNegative
    clipping_norm: Annotated[float, Field(gt=0)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1)]
    minimum_cohort: Annotated[int, Field(ge=1)]
    statement: Annotated[str, Field(min_length=1, max_length=4096)]
    """The guarantee in one sentence."""
    ledger_entry_digest: Digest
    """Hash of the committed ledger entry of this release; a server can check it offline against an export."""


class GateResultV1(WireModel):
    """One check of a version before its release."""

    name: Name
    metric: Name
    value: float
    threshold: float | None = None
    passed: bool
    privacy_cost: NonNegative = 0.0
    """Charged epsilon; 0 means that only released or public data were used."""


class EvaluationV1(WireModel):
    """What the gate found."""

    verdict: Literal["accepted", "rejected", "not-evaluated"]
    gates: tuple[GateResultV1, ...] = ()
    report_digest: Digest | None = None


class ActivationProbeV1(WireModel):
    """A public prompt whose log-probability tells whether the server applies this adapter."""

    prompt: Annotated[str, Field(min_length=1, max_length=2048)]
    completion: Annotated[str, Field(min_length=1, max_length=2048)]
    base_logprob: float
    adapter_logprob: float
    tolerance: NonNegative


class LineageV1(WireModel):
    """Where the version comes from."""

    round_id: Name
    parent: Digest | None = None
    """Version whose weights the training started from."""
    supersedes: ServedName | None = None
    plan_digest: Digest
    code_digest: Digest | None = None


class TrustV1(WireModel):
    """Signature over the manifest."""

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: Name
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
    """Base64 of the 64-byte signature over the ASCII text of ``manifest_digest``."""


class AdapterVersionV1(WireModel):
    """All that a server has to know about one immutable adapter version."""

    version: Annotated[int, Field(ge=1)]
    """Rises along the line."""
    version_id: Digest
    served_name: ServedName
    artifact: ArtifactV1
    base: BaseFingerprintV1
    lora: LoraShapeV1
    privacy: PrivacyStatementV1
    evaluation: EvaluationV1 = EvaluationV1(verdict="not-evaluated")
    probes: tuple[ActivationProbeV1, ...] = ()
    lineage: LineageV1
    trust: TrustV1


class RolloutV1(WireModel):
    """How traffic is split between the champion and the candidate.

    A request goes to the candidate when ``hash(salt, subject)`` falls into its percent, so one subject
    always sees the same version.
    """

    stage: Annotated[int, Field(ge=0)] = 0
    candidate_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    salt: Annotated[str, Field(max_length=64)] = ""


class AdapterStateV1(WireModel):
    """Desired state of one adapter line: which versions servers should hold, and who gets which."""

    line_ref: LineRef
    tenant_ref: LineRef
    """Pseudonym of the tenant."""
    domain: Slug = "default"
    epoch: Annotated[int, Field(ge=0)]
    revision: Annotated[int, Field(ge=1)]
    champion: AdapterVersionV1 | None = None
    """Answers all traffic that is not the candidate's; absent means the base model."""
    candidate: AdapterVersionV1 | None = None
    rollout: RolloutV1 = RolloutV1()
    keep: tuple[ServedName, ...] = ()
    """Earlier versions that should stay loaded for a roll-back."""
    revoked: tuple[ServedName, ...] = ()
    """Versions that must not be served any more, requests in flight included."""
    updated_at: Moment


class AdapterEventKind(StrEnum):
    """What happened to an adapter."""

    PUBLISHED = "published"
    ROLLOUT_ADVANCED = "rollout-advanced"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    REVOKED = "revoked"
    DECLINED = "declined"  # a round trained nothing; the reason says why

    @property
    def event_type(self) -> str:
        """The ``ce_type`` under which this kind is reported."""
        return _EVENT_TYPES[self]


_EVENT_TYPES = {
    AdapterEventKind.PUBLISHED: ADAPTER_PUBLISHED,
    AdapterEventKind.ROLLOUT_ADVANCED: ADAPTER_ROLLOUT_ADVANCED,
    AdapterEventKind.PROMOTED: ADAPTER_PROMOTED,
    AdapterEventKind.ROLLED_BACK: ADAPTER_ROLLED_BACK,
    AdapterEventKind.REVOKED: ADAPTER_REVOKED,
    AdapterEventKind.DECLINED: ADAPTER_DECLINED,
}


class AdapterEventV1(WireModel):
    """One thing that happened to an adapter line."""

    kind: AdapterEventKind
    line_ref: LineRef
    tenant_ref: LineRef
    domain: Slug = "default"
    epoch: Annotated[int, Field(ge=0)]
    revision: Annotated[int, Field(ge=1)] | None = None
    """Revision of the state that this event brought about; absent when the state did not change."""
    adapter: AdapterVersionV1 | None = None
    """The version it happened to; absent for a declined round."""
    rollout: RolloutV1 | None = None
    rollback_of: ServedName | None = None
    reason: Annotated[str, Field(max_length=1024)] | None = None
    """Why, for people; a stable code comes first."""
    occurred_at: Moment
