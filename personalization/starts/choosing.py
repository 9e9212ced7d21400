"""Where a release starts: from released adapters only, which costs nothing (post-processing)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalization.adapters.factors import average_versions, remembered_share
from personalization.adapters.manifest import BLEND_CHECK, GateCheck, Scope, VersionState
from personalization.registry import queries as registry
from personalization.registry.publishing import ZERO
from personalization.starts.meta_versions import find_meta
from personalization.starts.untrained import PUBLIC_DATA
from privacy.policy.values import Start

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlmodel import Session

    from personalization.artifacts.store import ArtifactStore
    from personalization.planning.plan import TrainingPlan
    from personalization.registry.tables import AdapterLineRow, AdapterVersionRow
    from personalization.rounds.tables import RoundRow
    from privacy.policy.values import TenantPrivacyPolicy

WARM = "warm"
_USABLE = (VersionState.PUBLISHED.value, VersionState.SUPERSEDED.value)


@dataclass(frozen=True, kw_only=True)
class StartPoint:
    """A kind of start and, unless it is zero, the released version whose weights are taken."""

    kind: str
    version_id: str | None = None


def choose_start(
    session: Session,
    line: AdapterLineRow,
    policy: TenantPrivacyPolicy,
    plan: TrainingPlan,
    *,
    base_digest: str,
) -> StartPoint:
    """Return where the plan starts on this line.

    ``previous`` takes the line's current version and ``average`` the exponential average of the line's own versions,
    where the current one fits (same base, family, rank and layers). ``meta``, and a line without a version that fits,
    takes the meta start of the base and shape; where there is none, zero. A line that serves a synthetic warm start
    begins from it under any policy: the tenant asked for it.
    """
    current = registry.current_version(session, line)
    if current is not None and _fits(current, plan, base_digest):
        if current.reservation_id == PUBLIC_DATA:
            return StartPoint(kind=WARM, version_id=current.version_id)
        if policy.start is not Start.META and current.state == VersionState.PUBLISHED.value:
            return StartPoint(kind=policy.start.value, version_id=current.version_id)
    meta = find_meta(session, base_digest, plan, line.domain)
    if meta is not None and meta.state == VersionState.PUBLISHED.value and _fits(meta, plan, base_digest):
        return StartPoint(kind=Start.META.value, version_id=meta.version_id)
    return StartPoint(kind=ZERO)


def open_start(artifacts: ArtifactStore, row: RoundRow, versions: Sequence[str]) -> Path | None:
    """Return the directory of the start's weights, checked or freshly averaged; None for a start from zero.

    Args:
        artifacts: where the versions are stored.
        row: the round; it names the kind of start.
        versions: what ``start_sources`` said when the round was reserved.

    Raises:
        ArtifactError: a stored version is gone or changed.
        MetaStartError: versions of the line do not share one subspace.
    """
    if not versions:
        return None
    if row.start != Start.AVERAGE.value:
        return artifacts.open(versions[0])
    name = hashlib.sha256("\n".join(versions).encode()).hexdigest()[:32]
    target = artifacts.scratch(f"average-{name}-{row.round_id}-{row.epoch}")
    average_versions([artifacts.open(version_id) for version_id in versions], target)
    return target


def start_sources(session: Session, line_ref: str, start: StartPoint) -> tuple[str, ...]:
    """Return the versions whose weights a round of the line starts from."""
    if start.version_id is None:
        return ()
    if start.kind != Start.AVERAGE.value:
        return (start.version_id,)
    return tuple(averaged_versions(session, line_ref, start.version_id))


def blend_source(
    session: Session,
    line: AdapterLineRow,
    policy: TenantPrivacyPolicy,
    plan: TrainingPlan,
    base_digest: str,
) -> str | None:
    """Return which of the line's own versions is averaged into the release, if one is."""
    current = registry.current_version(session, line)
    asked = policy.remember or policy.previous_share > 0
    if not asked or current is None or not _fits(current, plan, base_digest):
        return None
    if registry.read_version(current).manifest.scope is not Scope.TENANT:
        return None
    if policy.remember and current.reservation_id == PUBLIC_DATA:
        return None  # a guide is no window of time
    return current.version_id


def blend_share(session: Session, policy: TenantPrivacyPolicy, source: str | None) -> float:
    """Return the share of ``source`` in the release; of a line that remembers, by how many releases are in it.

    That number is public.
    """
    if source is None:
        return 0.0
    return remembered_share(len(averaged_in(session, source))) if policy.remember else policy.previous_share


def averaged_in(session: Session, source: str) -> list[str]:
    """Return the releases that ``source`` is an even memory of, itself the last; oldest first.

    A version that was not averaged as such memory goes on begins anew: one from before the policy asked, or of
    ``previous_share``. Versions of another line, which a composed one has parts of, are not followed.
    """
    links: list[tuple[str, float]] = []
    line_ref, at = registry.find_version(session, source).line_ref, source
    while at:
        row = registry.find_version(session, at)
        if row.line_ref != line_ref:
            break
        checks = registry.read_version(row).manifest.evaluation.checks
        blend = next((check for check in checks if check.name == BLEND_CHECK), None)
        links.append((at, 0.0 if blend is None or blend.value is None else blend.value))
        at = "" if blend is None or blend.detail is None else blend.detail
    found: list[str] = []
    for version_id, share in reversed(links):
        goes_on = bool(found) and math.isclose(share, remembered_share(len(found)), rel_tol=1e-9)
        found = [*found, version_id] if goes_on else [version_id]
    return found


def blend_fact(version_id: str | None, share: float) -> GateCheck | None:
    """Return a blend as a fact of the version's evaluation."""
    if version_id is None:
        return None
    return GateCheck(name=BLEND_CHECK, passed=True, value=share, detail=version_id)


def averaged_versions(session: Session, line_ref: str, newest_id: str) -> list[str]:
    """Return the versions that an average start is made of, oldest first; the round names the newest."""
    newest = registry.get_version(session, newest_id)
    assert newest is not None  # versions are never deleted
    shape = registry.read_version(newest).manifest.line_shape
    usable = [
        one
        for one in registry.versions_of(session, line_ref)
        if one.version <= newest.version and one.state in _USABLE and one.base_digest == newest.base_digest
    ]
    manifests = [(one.version_id, registry.read_version(one).manifest) for one in usable]
    alike = [
        (version_id, manifest)
        for version_id, manifest in manifests
        for lora in (manifest.line_shape,)
        if (lora.family, lora.rank, lora.alpha, lora.layers)
        == (shape.family, shape.rank, shape.alpha, shape.layers)
        and set(lora.target_modules) == set(shape.target_modules)
    ]
    own = [version_id for version_id, manifest in alike if manifest.scope is Scope.TENANT]
    return own or [newest.version_id]


def _fits(row: AdapterVersionRow, plan: TrainingPlan, base_digest: str) -> bool:
    lora = registry.read_version(row).manifest.line_shape
    return (
        row.base_digest == base_digest
        and lora.family == plan.family.value
        and lora.rank == plan.rank
        and len(lora.layers) == plan.top_layers
        and set(lora.target_modules) == set(plan.target_modules)
    )
