"""What an operator wants to see of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.gates.drift import drift_document
from personalization.gates.forgetting import PUBLIC_TEXT_CHECK
from personalization.registry import queries as registry

if TYPE_CHECKING:
    from personalization.registry.tables import AdapterVersionRow


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
