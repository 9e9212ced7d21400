"""An adapter version: immutable, named by the digest of its manifest, signed, and free of any person's data.

The manifest says what the files are (digests), what they fit (base model), what they cost (guarantee,
ledger entry), how they were judged (evaluation, probes) and where they come from (lineage). It is canonical
JSON: sorted keys, no white space, UTF-8, no NaN. ``version_id`` is the SHA-256 of those bytes, so a server
that trusts one public key can check a whole directory offline.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from personalization.adapters.activation import Activation
from personalization.adapters.parts import PRIVATE_MODULES
from personalization.errors import ManifestError
from privacy.canonical import canonical_json, digest_of, sha256_digest

MANIFEST_FORMAT = "discreet.adapter-manifest.v1"
BLEND_CHECK = "blend"  # names the released version that was averaged into this one, and its share
COMPOSED = "composed"  # start of a version that is the mean of what two of the tenant's other lines served
AND = "-and-"  # between the domains of both in the domain of a composed line
LATER_PRIVACY_FIELDS = ("receipt", "audit")  # left out of the canonical bytes where a version has none
LATER_EVALUATION_FIELDS = ("activation", "suites")  # as above
SERVED_NAME = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")


class VersionState(StrEnum):
    """Where a published version stands in the registry."""

    CANDIDATE = "candidate"  # may succeed what the line serves; some users get it meanwhile
    PUBLISHED = "published"  # what the line serves now
    SUPERSEDED = "superseded"  # an earlier version; a roll-back may return to it
    ROLLED_BACK = "rolled_back"  # left by a roll-back; never served again
    WITHDRAWN = "withdrawn"  # revoked for privacy or by a person; its weights are removed


class Scope(StrEnum):
    """Whose adapter it is."""

    TENANT = "tenant"
    META = "meta"


def served_name(line_ref: str, version: int) -> str:
    """Return the name a server gives this version: unique for ever, valid for every server we know."""
    name = f"a-{line_ref}-v{version}"
    if not SERVED_NAME.match(name):
        raise ValueError(f"served name {name!r} is not allowed; use lower-case letters, digits and hyphens")
    return name


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """One file of an artifact; ``path`` is a plain file name."""

    path: str
    media_type: str
    size: int  # bytes
    sha256: str  # 64 hex digits


@dataclass(frozen=True, kw_only=True)
class BaseFingerprint:
    """The frozen base model an adapter fits; digests are ``sha256:…``, or empty where it has no such file."""

    model_id: str
    revision: str
    config_digest: str
    weights_digest: str
    tokenizer_digest: str
    architecture: str
    dtype: str
    chat_template_digest: str = ""

    def digest(self) -> str:
        """Return one digest over all fields; equal bases have equal fingerprints."""
        return digest_of(asdict(self))


@dataclass(frozen=True, kw_only=True)
class LoraShape:
    """What a server must reserve for the adapter; always inside the portable profile."""

    family: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    layers: tuple[int, ...]
    trainable_parameters: int
    dtype: str
    tensor_digest: str  # over names, dtypes, shapes and bytes; independent of the file's framing
    profile: str = "portable-lora-v1"

    def private_part(self) -> LoraShape:
        """Return the shape of a combined adapter's private part: its modules of the last block."""
        return replace(self, target_modules=tuple(sorted(PRIVATE_MODULES)), layers=self.layers[-1:])


@dataclass(frozen=True, kw_only=True)
class AuditFacts:
    """What canaries in a shadow of the plan's mechanism showed: lower bounds beside the claim, and how they were made.

    They come from public numbers and fresh noise alone, so they cost nothing and say nothing about anyone.
    """

    depth: str  # "mechanism" | "gradients": how much of the trainer the shadow ran
    canaries: int
    confidence: float  # with which all bounds hold at once
    delta: float
    claimed_epsilon: float  # of training alone, by the ledger's accountant
    empirical_epsilon: float  # the largest of the bounds below
    one_run_epsilon: float
    trials_epsilon: float
    noise_ratio_epsilon: float
    noise_ratio: float  # the noise is at most so many times the planned one


@dataclass(frozen=True, kw_only=True)
class PrivacyFacts:
    """What the version cost and what its line has cost so far, as the ledger proves it."""

    unit: str
    relation: str
    mechanism: str
    accountant: str
    release_epsilon: float
    cumulative_epsilon: float
    target_epsilon: float  # the lifetime cap
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    clipping_norm: float
    contribution_bound: int
    minimum_cohort: int
    reservation_id: str
    ledger_entry_hash: str  # the commit entry; serving refuses a version without one
    plan_digest: str
    noisy_cohort: int | None = None
    audit: AuditFacts | None = None
    receipt: dict[str, Any] | None = None  # what the run measured of itself, signed with the key of its round


@dataclass(frozen=True, kw_only=True)
class GateCheck:
    """One check of the gate; ``privacy_epsilon`` is 0 for post-processing and public data."""

    name: str
    passed: bool
    value: float | None = None
    threshold: float | None = None
    detail: str = ""
    privacy_epsilon: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The verdict of the gate, and what a server measures again to prove that it applies the adapter."""

    verdict: str  # "accepted"; a rejected version is never registered
    checks: tuple[GateCheck, ...]
    probes: tuple[()] = ()  # of a form that no version ever had; ``activation`` took its place
    activation: Activation | None = None  # None of versions from before it, and where nothing measured it
    # Every number of the public suites (``personalization.suites.values.SuiteScores``), as its document; None where
    # they were not asked. The next version is compared with them, item by item.
    suites: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where the version comes from."""

    round_id: str
    period_index: int
    start: str  # "zero" | "meta" | "previous" | "average" | "warm"
    start_version_id: str | None
    supersedes: str | None  # version id that it replaced when it was published
    data_digest: str  # keyed digest of the snapshot, from the recorded draw
    code_digest: str


@dataclass(frozen=True, kw_only=True)
class StyleFacts:
    """What a charged vote found out about how the tenant's answers look, and what was made of it.

    Words that many users share may be in it, so it is for the tenant's own servers alone, like the weights.
    """

    card: dict[str, Any]  # the style card (``personalization.styles.card``), as its document
    card_digest: str
    prompt: str  # template for a model whose weights nobody can touch; Jinja2, with the variable ``prompt``
    pattern: str = ""  # regular expression for constrained decoding; empty where no frame is common enough
    grammar: str = ""  # the same as GBNF
    public_part: dict[str, Any] | None = None  # of weights made of cards; None: there are none


@dataclass(frozen=True, kw_only=True)
class AdapterManifest:
    """All that never changes about a version; it holds no tenant name, no user and no text of one person."""

    line_ref: str
    scope: Scope
    version: int
    served_name: str
    created_at: str  # RFC 3339, UTC
    files: tuple[ArtifactFile, ...]
    base: BaseFingerprint
    lora: LoraShape
    privacy: PrivacyFacts
    evaluation: EvaluationSummary
    lineage: Lineage
    style: StyleFacts | None = None  # None where no vote was charged, or nothing was found
    format: str = field(default=MANIFEST_FORMAT)

    @property
    def line_shape(self) -> LoraShape:
        """The shape of what the line trains and adds up over time: of its private part, where it has a public one."""
        combined = self.style is not None and self.style.public_part is not None
        return self.lora.private_part() if combined else self.lora

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal manifest."""
        document: dict[str, Any] = json.loads(self.to_bytes())
        return document

    def to_bytes(self) -> bytes:
        """Return the canonical bytes: what is stored, hashed and signed."""
        document = asdict(self)
        for name in LATER_PRIVACY_FIELDS:
            if document["privacy"][name] is None:
                del document["privacy"][name]  # the bytes of versions from before it are what they were
        if document["style"] is None:
            del document["style"]
        for name in LATER_EVALUATION_FIELDS:
            if document["evaluation"][name] is None:
                del document["evaluation"][name]
        return canonical_json(document)

    def version_id(self) -> str:
        """Return the ``sha256:`` digest of the manifest: the version's identity."""
        return sha256_digest(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a stored manifest.

        Raises:
            ManifestError: not JSON, not canonical, another format, or a field is missing or unknown.
        """
        try:
            document = json.loads(data)
            if document.get("format") != MANIFEST_FORMAT:
                raise ManifestError(
                    f"the manifest's format is {document.get('format')!r}; only {MANIFEST_FORMAT} is read"
                )
            manifest = cls(
                **{
                    **document,
                    "scope": Scope(document["scope"]),
                    "files": tuple(ArtifactFile(**entry) for entry in document["files"]),
                    "base": BaseFingerprint(**document["base"]),
                    "lora": _lora(document["lora"]),
                    "privacy": _privacy(document["privacy"]),
                    "evaluation": _evaluation(document["evaluation"]),
                    "lineage": Lineage(**document["lineage"]),
                    "style": StyleFacts(**document["style"]) if "style" in document else None,
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(
                "the manifest is not a complete manifest of this format; fetch it again"
            ) from error
        if manifest.to_bytes() != data:
            raise ManifestError(
                "the manifest is not in canonical form, so its digest proves nothing; fetch it again"
            )
        return manifest


def _privacy(document: dict[str, Any]) -> PrivacyFacts:
    audit = document.get("audit")
    return PrivacyFacts(**{**document, "audit": None if audit is None else AuditFacts(**audit)})


def _lora(document: dict[str, Any]) -> LoraShape:
    lists = {name: tuple(document[name]) for name in ("target_modules", "layers")}
    return LoraShape(**{**document, **lists})


def _evaluation(document: dict[str, Any]) -> EvaluationSummary:
    return EvaluationSummary(
        verdict=document["verdict"],
        checks=tuple(GateCheck(**entry) for entry in document["checks"]),
        activation=Activation.from_document(document["activation"]) if "activation" in document else None,
        suites=document.get("suites"),
    )


@dataclass(frozen=True, kw_only=True)
class AdapterVersion:
    """A manifest with its signature and the place its files are at."""

    manifest: AdapterManifest
    version_id: str
    uri: str  # file://…/<digest>
    signature: Signature

    @property
    def served_name(self) -> str:
        """Return the name servers use."""
        return self.manifest.served_name

    @property
    def version(self) -> int:
        """Return the monotone number on the line."""
        return self.manifest.version


@dataclass(frozen=True, kw_only=True)
class Signature:
    """An Ed25519 signature over the DSSE pre-authentication encoding of the manifest's bytes."""

    key_id: str  # first 16 hex digits of the SHA-256 of the raw public key
    signature: str  # base64
    algorithm: str = "ed25519"

    def to_document(self) -> dict[str, str]:
        """Return a JSON-ready copy."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}
