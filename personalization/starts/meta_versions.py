"""Queries over meta versions: whose lines they stand on, which one fits a plan, what they were made from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from personalization.adapters.manifest import LoraShape, VersionState
from personalization.planning.plan import TrainingPlan
from personalization.registry import queries as registry
from personalization.starts.tables import MetaContributionRow
from privacy.canonical import canonical_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.registry.tables import AdapterLineRow, AdapterVersionRow

META_TENANT = "~meta-"  # followed by a digest of base and shape; "~" cannot begin a tenant id
ALL_DOMAINS = "~all"


def meta_tenant(base_digest: str, lora: LoraShape | TrainingPlan) -> str:
    """Return the owner of the meta lines of one base and adapter shape."""
    layers = lora.top_layers if isinstance(lora, TrainingPlan) else len(lora.layers)
    family = lora.family.value if isinstance(lora, TrainingPlan) else lora.family
    shape = [base_digest, family, lora.rank, lora.alpha, sorted(lora.target_modules), layers]
    return META_TENANT + hashlib.sha256(canonical_json(shape)).hexdigest()[:16]


def find_meta(
    session: Session, base_digest: str, lora: LoraShape | TrainingPlan, domain: str
) -> AdapterVersionRow | None:
    """Return the current meta version for a shape: of the domain, or else of all domains."""
    owner = meta_tenant(base_digest, lora)
    for name in (domain, ALL_DOMAINS):
        row = registry.current_version(session, registry.find_line(session, owner, name))
        if row is not None:
            return row
    return None


def meta_versions(session: Session) -> Sequence[AdapterVersionRow]:
    """Return every meta version, of each line the oldest first: a withdrawal never falls back to a stale one."""
    return registry.versions_of_owners(session, META_TENANT)


def contributions_of(session: Session, version_id: str) -> Sequence[MetaContributionRow]:
    """Return what a meta version was computed from."""
    return session.exec(
        select(MetaContributionRow)
        .where(MetaContributionRow.version_id == version_id)
        .order_by(col(MetaContributionRow.tenant_id))
    ).all()


def ensure_meta_line(session: Session, owner: str, domain: str, now: datetime) -> AdapterLineRow:
    """Return the locked meta line, made on first use."""
    line = registry.ensure_line_of_nobody(session, owner, domain, now=now)
    return registry.lock_line(session, line.line_ref)


def best_meta(
    session: Session, base_digest: str, domain: str, line_rank: int | None
) -> AdapterVersionRow | None:
    """Return the meta start to serve: of the domain before all domains, of most contributors, then newest."""
    rows = [
        row
        for row in meta_versions(session)
        if row.state == VersionState.PUBLISHED.value
        and row.base_digest == base_digest
        and row.domain in {domain, ALL_DOMAINS}
        and (line_rank is None or registry.read_version(row).manifest.lora.rank == line_rank)
    ]

    def value(row: AdapterVersionRow) -> tuple[bool, int, str]:
        parts = contributions_of(session, row.version_id)
        return row.domain == domain, len(parts), row.published_at.isoformat()

    return max(rows, key=value, default=None)


def describe_meta_versions(session: Session) -> list[dict[str, Any]]:
    """Return every meta version with its contributors, JSON-ready, for the operator."""
    facts = []
    for row in meta_versions(session):
        manifest = registry.read_version(row).manifest
        contributors = [
            {"tenant": part.tenant_id, "version_id": part.contributor_id, "weight": part.weight}
            for part in contributions_of(session, row.version_id)
        ]
        facts.append(
            {
                "served_name": row.served_name,
                "version_id": row.version_id,
                "domain": row.domain,
                "state": row.state,
                "generation": row.version,
                "mechanism": manifest.privacy.mechanism,
                "rank": manifest.lora.rank,
                "start_version_id": row.start_version_id,
                "published_at": row.published_at.isoformat(),
                "contributors": contributors,
            }
        )
    return facts
