"""How a line moved with a new release: drift, measured between released adapters against their known noise.

Only released weights and public numbers are read, so it costs nothing. The figures travel in the version's evaluation:
the published event, the registry, ``discreet adapters show`` and the operator API show the same ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from personalization.adapters import BLEND_CHECK, Scope
from personalization.continual import DRIFT_CHECK, NOISE_CHECK, PUBLIC_TEXT_CHECK, movement, noise_between
from personalization.errors import ArtifactError, MetaStartError
from personalization.plan import Family
from personalization.storage import registry
from personalization.storage.tables import AdapterVersionRow

if TYPE_CHECKING:
    from pathlib import Path

    from sqlmodel import Session

    from personalization.adapters import AdapterManifest
    from personalization.artifacts import DirectoryArtifactStore
    from personalization.gate import Accepted
    from personalization.storage.tables import AdapterLineRow, RoundRow

_log = structlog.get_logger(__name__)


def with_movement(
    session: Session,
    artifacts: DirectoryArtifactStore,
    line: AdapterLineRow,
    row: RoundRow,
    directory: Path,
    accepted: Accepted,
) -> Accepted:
    """Return the verdict with the movement since the line's served version, where the two can be compared."""
    before = session.get(AdapterVersionRow, line.current_version_id) if line.current_version_id else None
    if before is None:
        return accepted
    manifest = registry.read_version(before).manifest
    lora = accepted.lora
    alike = (manifest.lora.family, manifest.lora.rank, manifest.lora.layers) == (
        lora.family, lora.rank, lora.layers
    )  # fmt: skip
    if not alike or lora.family == Family.FULL.value or manifest.scope is not Scope.TENANT:
        return accepted
    own = next((one.value for one in accepted.evaluation.checks if one.name == NOISE_CHECK), None)
    blend = next((one for one in accepted.evaluation.checks if one.name == BLEND_CHECK), None)
    earlier = noise_of(manifest)
    if earlier is not None and blend is not None and blend.detail == before.version_id:
        earlier *= 1.0 - (blend.value or 0.0)  # the blend holds the rest of it too, so it cancels
    noise = noise_between(earlier, own, from_earlier=row.start_version_id == before.version_id)
    try:
        moved = movement(artifacts.open(before.version_id), directory, noise=noise)
    except (ArtifactError, MetaStartError):  # a withdrawn or foreign version: nothing to compare with
        return accepted
    _log.info(
        "line_moved", line_ref=line.line_ref, ratio=moved.ratio, cosine=moved.cosine, drifted=moved.drifted
    )
    evaluation = replace(accepted.evaluation, checks=(*accepted.evaluation.checks, *moved.checks()))
    return replace(accepted, evaluation=evaluation)


def noise_of(manifest: AdapterManifest) -> float | None:
    """Return the length of a version's own noise as it was measured when it was trained."""
    return next((one.value for one in manifest.evaluation.checks if one.name == NOISE_CHECK), None)


def drift_document(manifest: AdapterManifest) -> dict[str, object] | None:
    """Return a version's movement since the version before as JSON-ready facts; None where it was not measured."""
    found = {one.name: one for one in manifest.evaluation.checks}
    drift = found.get(DRIFT_CHECK)
    if drift is None:
        return None
    known = drift.threshold is not None
    return {
        "against": manifest.lineage.supersedes,
        "ratio_to_noise": drift.value if known else None,
        "distance": None if known else drift.value,
        "limit": drift.threshold,
        "drifted": bool(known and drift.value is not None and drift.value > (drift.threshold or 0.0)),
        "cosine": found["cosine"].value,
        "retained": found["retained"].value,
        "detail": drift.detail,
    }


def version_facts(row: AdapterVersionRow) -> dict[str, object]:
    """Return what an operator wants to see of a version, JSON-ready: state, cost, public text, movement."""
    manifest = registry.read_version(row).manifest
    public = next((one for one in manifest.evaluation.checks if one.name == PUBLIC_TEXT_CHECK), None)
    return {
        "domain": row.domain,
        "version": row.version,
        "served_name": row.served_name,
        "version_id": row.version_id,
        "state": row.state,
        "scope": manifest.scope.value,
        "start": manifest.lineage.start,
        "mechanism": manifest.privacy.mechanism,
        "release_epsilon": manifest.privacy.release_epsilon,
        "cumulative_epsilon": manifest.privacy.cumulative_epsilon,
        "public_text_change": None if public is None else public.value,
        "drift": drift_document(manifest),
        "published_at": row.published_at.isoformat(),
    }
