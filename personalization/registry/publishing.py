"""Make an accepted candidate a version: manifest, signature, files, row and event, in one transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from personalization.adapters.files import CONFIG
from personalization.adapters.manifest import (
    AdapterManifest,
    AdapterVersion,
    Lineage,
    PrivacyFacts,
    Scope,
    VersionState,
    served_name,
)
from personalization.artifacts.files import describe_files
from personalization.registry import queries as registry
from personalization.registry import succession
from personalization.registry.announcements import Act, AdapterEventKind, DesiredChange, announce
from personalization.registry.leaving import leave
from personalization.registry.tables import AdapterVersionRow
from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from sqlmodel import Session

    from personalization.adapters.manifest import BaseFingerprint, StyleFacts
    from personalization.adapters.signing import ManifestSigner
    from personalization.artifacts.store import ArtifactStore
    from personalization.gates.gate import Accepted
    from personalization.registry.announcements import AdapterEvents
    from personalization.registry.tables import AdapterLineRow

ZERO = "zero"  # the start of a version that went on from no other


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is known of an accepted candidate once its budget is committed."""

    directory: Path
    accepted: Accepted
    base: BaseFingerprint
    privacy: PrivacyFacts
    plan_digest: str
    data_digest: str
    code_digest: str
    scope: Scope = Scope.TENANT
    actor: str = "trainer"
    style: StyleFacts | None = None
    trained: bool = True  # on the tenant's own users; only such a version fixes the rank of its line


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a version comes from: its round, and the released version that it started from."""

    round_id: str
    period_index: int
    start: str = ZERO
    start_version_id: str | None = None


class Publisher:
    """Writes versions; holds what is the same for all of them."""

    def __init__(self, artifacts: ArtifactStore, signer: ManifestSigner, events: AdapterEvents) -> None:
        self._artifacts = artifacts
        self._signer = signer
        self._events = events

    def publish(
        self, session: Session, line: AdapterLineRow, origin: Origin, candidate: Candidate, *, now: datetime
    ) -> AdapterVersion:
        """Register the candidate as the line's next version and tell everyone, in the caller's transaction.

        Where the tenant's policy asks for steps, the version begins a rollout, and the line goes on serving what it
        served. The first version of a line always goes to everybody: there is no other that the rest could get.

        The files are stored before the transaction ends; if it does not commit, they are an orphan that
        the artifacts chore removes after its grace, and the same number is given to the next candidate.

        Args:
            session: holds the locks of the round and of ``line`` and has committed the round's reservation.
            line: the round's line.
            origin: where the candidate comes from.
            candidate: what passed the gate.
            now: the public instant that is stamped on everything, never when the training ended.
        """
        before = registry.current_version(session, line)
        number = line.last_version + 1
        manifest = AdapterManifest(
            line_ref=line.line_ref,
            scope=candidate.scope,
            version=number,
            served_name=served_name(line.line_ref, number),
            created_at=now.isoformat(),
            files=describe_files(candidate.directory.iterdir()),
            base=candidate.base,
            lora=candidate.accepted.lora,
            privacy=candidate.privacy,
            evaluation=candidate.accepted.evaluation,
            lineage=Lineage(
                round_id=origin.round_id,
                period_index=origin.period_index,
                start=origin.start,
                start_version_id=origin.start_version_id,
                supersedes=before.version_id if before is not None else None,
                data_digest=candidate.data_digest,
                code_digest=candidate.code_digest,
            ),
            style=candidate.style,
        )
        _require_marks(manifest, candidate.directory)
        signature = self._signer.sign(manifest)
        version = AdapterVersion(
            manifest=manifest,
            version_id=manifest.version_id(),
            uri=self._artifacts.put(manifest, signature, candidate.directory),
            signature=signature,
        )
        act = Act(actor=candidate.actor, reason="A new version passed the gate.", code="published", now=now)
        row = _row_of(version, line, origin, candidate, now)
        line.last_version = number
        if candidate.trained:
            line.rank = candidate.accepted.lora.rank
        plan = None if before is None else succession.plan_of(session, line, trained=candidate.trained)
        desired = version
        if before is not None and plan is not None:
            desired = registry.read_version(before)
            row.state = VersionState.CANDIDATE.value
            session.add(row)
            succession.begin(session, self._events, line, version, plan, act)
        else:
            succession.end(session, self._events, line, act)
            if before is not None:
                session.add(leave(before, VersionState.SUPERSEDED, replace(act, reason="superseded")))
            session.add(row)
            line.current_version_id = version.version_id
        announce(
            session,
            self._events,
            line,
            AdapterEventKind.PUBLISHED,
            act,
            version=version,
            change=DesiredChange.SET,
            desired=desired,
            round_id=origin.round_id,
        )
        return version


def _require_marks(manifest: AdapterManifest, directory: Path) -> None:
    """Let nothing into a version that has no mark at the boundary; a manifest that was signed cannot be taken back."""
    BOUNDARY.release(Kind.MANIFEST, manifest, manifest.to_document())
    config = json.loads((directory / CONFIG).read_bytes())
    BOUNDARY.release(Kind.ADAPTER_CONFIG, config, config)
    BOUNDARY.require(Kind.ARTIFACT_STORE, [file.path for file in manifest.files if file.path != CONFIG])


def _row_of(
    version: AdapterVersion, line: AdapterLineRow, origin: Origin, candidate: Candidate, now: datetime
) -> AdapterVersionRow:
    return AdapterVersionRow(
        version_id=version.version_id,
        line_ref=line.line_ref,
        tenant_id=line.tenant_id,
        domain=line.domain,
        version=version.version,
        served_name=version.served_name,
        state=VersionState.PUBLISHED.value,
        round_id=origin.round_id,
        reservation_id=candidate.privacy.reservation_id,
        ledger_entry_hash=candidate.privacy.ledger_entry_hash,
        base_digest=candidate.base.digest(),
        start_version_id=origin.start_version_id,
        uri=version.uri,
        manifest_json=version.manifest.to_bytes().decode(),
        signature_json=json.dumps(version.signature.to_document(), sort_keys=True),
        published_at=now,
    )
