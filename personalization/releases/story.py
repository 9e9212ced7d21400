"""The story of one version, from the round that was due to who serves it, with what proves it offline.

It holds the exact bytes of the signed manifest, the ledger's entries of its reservation and the records of the audit
trail that name it, each with the digest that chains it: ``check_story`` needs nothing else but public keys. No user,
pseudonym or text of a user is in it; what was trained on appears as a keyed digest. It names operators and repeats
their reasons, and it is told before the version's slot: it is the operator's own, who decides whom to give it to.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from personalization.adapters.signing import key_id, pre_authentication_encoding
from personalization.errors import StoryError
from personalization.gates.drift import drift_document
from personalization.registry import queries as registry
from personalization.registry.facts import comparison_facts
from personalization.registry.withdrawal import heirs_of
from personalization.releases.reading import READ, inputs_of
from personalization.rollouts import rows as rollouts
from personalization.rounds import queries as rounds
from privacy.audit import trail
from privacy.audit.records import AuditRecord
from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from privacy.canonical import sha256_digest
from privacy.ledger import history
from privacy.ledger.chain import EntryKind, entry_digest
from privacy.policy.values import DataPurpose

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlmodel import Session

    from personalization.registry.tables import AdapterVersionRow

STORY_FORMAT: Final = "discreet.version-story.v1"
_LEDGER: Final = (
    "tenant_id", "sequence", "kind", "recorded_at", "reservation_id", "document", "previous_digest", "digest",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing that a story says of itself, and whether it holds.

    Attributes:
        what: in one sentence.
        holds: whether it does.
    """

    what: str
    holds: bool


def story_of(
    session: Session,
    row: AdapterVersionRow,
    *,
    served_by: Iterable[Mapping[str, Any]] = (),
    kpis: Iterable[Mapping[str, Any]] | None = None,
    alarms: Iterable[Mapping[str, Any]] = (),
    memory: Iterable[Mapping[str, Any]] = (),
    choices: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the story of a version, JSON-ready.

    Args:
        session: the caller's transaction.
        row: the version.
        served_by: what each server said last about it.
        kpis: serving quality of the line's versions lately, as a gateway told the tenant; ``None``: nobody asked.
        alarms: of drift that were told while it was served, out of released readings.
        memory: versions of collections of approved documents that its questions were answered from beside it.
        choices: among the line's prompt templates that were told while it was served.
    """
    version = registry.read_version(row)
    manifest = version.manifest
    opened = None if row.round_id is None else rounds.find_round(session, row.round_id)
    line = registry.require_line(session, row.tenant_id, row.domain)
    rolled = rollouts.find(session, row.line_ref)
    stands = rollouts.value_of(rolled)
    entries = [
        {name: getattr(entry, name) for name in _LEDGER}
        for entry in history.entries(session, row.tenant_id, *EntryKind)
        if entry.reservation_id is not None and entry.reservation_id == row.reservation_id
    ]
    records = [
        one.to_document()
        for one in trail.read(session, row.tenant_id)
        if _names(one, row.served_name) or (one.action == READ and one.detail["round_id"] == row.round_id)
    ]
    terms = None if opened is None or opened.terms_json is None else json.loads(opened.terms_json)
    story = {
        "format": STORY_FORMAT,
        "version_id": row.version_id,
        "served_name": row.served_name,
        "tenant": row.tenant_id,
        "domain": row.domain,
        "line_ref": row.line_ref,
        "state": row.state,
        "served_now": line.current_version_id == row.version_id,
        "published_at": row.published_at.isoformat(),
        "left": None
        if row.left_at is None
        else {"at": row.left_at.isoformat(), "by": row.left_by, "reason": row.left_reason},
        "round": None
        if opened is None
        else {
            "round_id": opened.round_id,
            "opened_by": opened.opened_by,
            "scheduled_for": _text(opened.scheduled_for),
            "read_at": _text(opened.read_at),
            "outcome_code": opened.outcome_code,
            "outcome": opened.outcome,
            "terms": terms,
        },
        "inputs": inputs_of(records),
        "consents": None
        if opened is None or opened.read_at is None
        else {
            "purpose": DataPurpose.TRAINING.value,
            "at": _text(opened.read_at),
            "policy_version": None if terms is None else terms.get("policy_version"),
            "noisy_users": opened.noisy_cohort,
            "digest": manifest.lineage.data_digest,
        },
        "rollout": None
        if stands.candidate != row.version_id
        else {
            "stage": stands.stage.value,
            "percent": stands.percent,
            "mode": stands.mode.value,
            "flag": stands.flag.value,
            "entered_at": _text(stands.entered_at),
            "plan": stands.plan.to_document(),
            "verdict": None if rolled is None else rolled.verdict,
        },
        "comparison": comparison_facts(session, row.version_id),
        "guards": [
            {"name": one.name, "value": one.value, "at": _text(one.at)}
            for one in rollouts.readings_of(session, row.version_id)
        ],
        "heirs": heirs_of(session, row),
        "kpis": None if kpis is None else [dict(one) for one in kpis],
        "served_by": [dict(one) for one in served_by],
        "drift": drift_document(manifest),
        "alarms": [dict(one) for one in alarms],
        "memory": [dict(one) for one in memory],
        "choices": [dict(one) for one in choices],
        "manifest": manifest.to_bytes().decode(),
        "signature": version.signature.to_document(),
        "ledger": entries,
        "trail": records,
    }
    return BOUNDARY.release(Kind.STORY, story, story).value


def check_story(story: Mapping[str, Any], public_keys: Collection[bytes]) -> list[Proof]:
    """Return what a story proves by itself, given the public keys that versions are signed with.

    Args:
        story: as ``story_of`` made it, from a file.
        public_keys: raw, 32 bytes each.

    Raises:
        StoryError: it is no story.
    """
    try:
        if story["format"] != STORY_FORMAT:
            raise StoryError(f"the story's format is not {STORY_FORMAT}; only that is read")
        manifest = story["manifest"].encode()
        document = json.loads(manifest)
        privacy = document["privacy"]
        entries = [dict(entry) for entry in story["ledger"]]
        records = [AuditRecord.from_document(record) for record in story["trail"]]
        proofs = [
            Proof(
                what="the version's name is the digest of its manifest",
                holds=sha256_digest(manifest) == story["version_id"],
            ),
            Proof(
                what="a key that is trusted signed the manifest",
                holds=_signed(manifest, story["signature"], public_keys),
            ),
            Proof(
                what="every entry of the ledger has the digest that chains it",
                holds=all(_digest_of(entry) == entry["digest"] for entry in entries),
            ),
            Proof(
                what="every record of the trail has the digest that chains it",
                holds=all(record.recomputed_digest() == record.digest for record in records),
            ),
        ]
        if "inputs" in story:
            proofs.append(
                Proof(
                    what="the trail has the offsets that the story names",
                    holds=inputs_of(story["trail"]) == story["inputs"],
                )
            )
        if privacy["reservation_id"] and entries:
            committed = {
                entry["digest"]
                for entry in entries
                if entry["kind"] == EntryKind.COMMITTED.value
                and entry["reservation_id"] == privacy["reservation_id"]
            }
            holds = privacy["ledger_entry_hash"] in committed
            proofs.append(Proof(what="the ledger committed what the manifest says that it cost", holds=holds))
        elif privacy["release_epsilon"]:
            proofs.append(Proof(what="the ledger committed what the manifest says that it cost", holds=False))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoryError("the file is no story of a version; write it with --json again") from error
    return proofs


def _names(record: AuditRecord, served_name: str) -> bool:
    return any(
        value == served_name or (isinstance(value, list) and served_name in value)
        for value in record.detail.values()
    )


def _digest_of(entry: Mapping[str, Any]) -> str:
    return entry_digest(**{name: entry[name] for name in _LEDGER if name != "digest"})


def _signed(manifest: bytes, signature: Mapping[str, Any], public_keys: Collection[bytes]) -> bool:
    for public_key in public_keys:
        if key_id(public_key) != signature["key_id"]:
            continue
        try:
            raw = base64.b64decode(signature["signature"], validate=True)
            Ed25519PublicKey.from_public_bytes(public_key).verify(raw, pre_authentication_encoding(manifest))
        except (InvalidSignature, binascii.Error):
            return False
        return True
    return False


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()
