"""How a line moved with a new release: drift, measured between released adapters against their known noise.

Only released weights and public numbers are read, so it costs nothing. Of an adapter with a public part the private one
is compared. The figures travel in the version's evaluation: the published event, the registry, ``discreet adapters
show`` and the operator API show the same ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from personalization.adapters.manifest import BLEND_CHECK, Scope
from personalization.adapters.parts import has_public_part
from personalization.errors import ArtifactError, MetaStartError
from personalization.gates.drift import NOISE_CHECK, movement, noise_between, noise_of
from personalization.planning.plan import Family
from personalization.registry import queries as registry

if TYPE_CHECKING:
    from pathlib import Path

    from sqlmodel import Session

    from personalization.artifacts.store import ArtifactStore
    from personalization.gates.gate import Accepted
    from personalization.registry.tables import AdapterLineRow
    from personalization.rounds.tables import RoundRow

_log = structlog.get_logger(__name__)


def with_movement(
    session: Session,
    artifacts: ArtifactStore,
    line: AdapterLineRow,
    row: RoundRow,
    directory: Path,
    accepted: Accepted,
) -> Accepted:
    """Return the verdict with the movement since the line's served version, where the two can be compared."""
    before = registry.current_version(session, line)
    if before is None:
        return accepted
    manifest = registry.read_version(before).manifest
    lora = accepted.lora.private_part() if has_public_part(directory) else accepted.lora
    shape = manifest.line_shape
    alike = (shape.family, shape.rank, shape.layers) == (lora.family, lora.rank, lora.layers)
    if not alike or not Family(lora.family).averageable or manifest.scope is not Scope.TENANT:
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
