"""Where a release starts: from released adapters only, which costs nothing (post-processing)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalization.adapters import VersionState
from personalization.storage import registry
from personalization.storage.tables import AdapterVersionRow
from privacy.policy import Start

if TYPE_CHECKING:
    from pathlib import Path

    from sqlmodel import Session

    from personalization.artifacts import DirectoryArtifactStore
    from personalization.plan import TrainingPlan
    from personalization.storage.tables import AdapterLineRow
    from privacy.policy import TenantPrivacyPolicy

ZERO = "zero"


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

    ``previous`` takes the line's current version when it fits (same base, family, rank and layers); a line
    without one starts from zero.
    """
    if policy.start is Start.META or line.current_version_id is None:
        return StartPoint(kind=ZERO)
    row = session.get(AdapterVersionRow, line.current_version_id)
    if row is None or row.state != VersionState.PUBLISHED.value or row.base_digest != base_digest:
        return StartPoint(kind=ZERO)
    lora = registry.read_version(row).manifest.lora
    fits = (
        lora.family == plan.family.value
        and lora.rank == plan.rank
        and len(lora.layers) == plan.top_layers
        and set(lora.target_modules) == set(plan.target_modules)
    )
    return StartPoint(kind=Start.PREVIOUS.value, version_id=row.version_id) if fits else StartPoint(kind=ZERO)


def open_start(artifacts: DirectoryArtifactStore, version_id: str | None) -> Path | None:
    """Return the checked directory of the start's weights; None for a start from zero.

    Raises:
        ArtifactError: the stored version is gone or changed.
    """
    return artifacts.open(version_id) if version_id is not None else None
