"""What an export tells of a version: the public and charged part of its story, and nothing that stays with the tenant.

Serving quality, readings of guards, people's names and reasons, the style card and the trail are left out: they are in
the story, for the operator. Offsets are in it, as the operator's own lineage system is to know them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WITHDRAWN: Final = "withdrawn"
_PRIVACY: Final = (
    "unit", "relation", "mechanism", "accountant", "release_epsilon", "cumulative_epsilon", "target_epsilon", "delta",
    "noise_multiplier", "sample_rate", "steps", "clipping_norm", "contribution_bound", "minimum_cohort",
    "reservation_id", "ledger_entry_hash", "plan_digest",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One version, as other systems hear of it.

    Attributes:
        tenant: whose.
        domain: of its line.
        line_ref: pseudonym of its line.
        version: its number.
        version_id: digest of its manifest.
        served_name: under which servers hold it.
        state: in the registry, now.
        published_at: its slot's instant, RFC 3339.
        scheduled_for: its round's, or ``None`` for a round by hand or a version without one.
        round_id: of its round; ``None`` of a version without one.
        inputs: topic, partition and next offset of what its round read.
        base: the base model's public fingerprint.
        shape: family, rank, trainable parameters.
        privacy: what it cost, as its manifest says.
        receipt: whether a signed receipt of the run is in the manifest.
        checks: of the gate: name, passed, value, threshold.
        rollout: stage, percent, mode, flag; ``None`` where it is no candidate.
        servers: how many verified it, and how many failed to.
    """

    tenant: str
    domain: str
    line_ref: str
    version: int
    version_id: str
    served_name: str
    state: str
    published_at: str
    scheduled_for: str | None
    round_id: str | None
    inputs: Sequence[Mapping[str, Any]]
    base: Mapping[str, Any]
    shape: Mapping[str, Any]
    privacy: Mapping[str, Any]
    receipt: bool
    checks: Sequence[Mapping[str, Any]]
    rollout: Mapping[str, Any] | None
    servers: Mapping[str, int]


def exported(story: Mapping[str, Any]) -> Exported:
    """Return what is exported of a story that was checked."""
    manifest = json.loads(story["manifest"])
    opened, rollout = story["round"], story["rollout"]
    said = [one["status"] for one in story["served_by"]]
    return Exported(
        tenant=story["tenant"],
        domain=story["domain"],
        line_ref=story["line_ref"],
        version=manifest["version"],
        version_id=story["version_id"],
        served_name=story["served_name"],
        state=story["state"],
        published_at=story["published_at"],
        scheduled_for=None if opened is None else opened["scheduled_for"],
        round_id=None if opened is None else opened["round_id"],
        inputs=story.get("inputs") or (),
        base={name: manifest["base"][name] for name in ("model_id", "revision", "architecture")},
        shape={name: manifest["lora"][name] for name in ("family", "rank", "trainable_parameters")},
        privacy={name: manifest["privacy"][name] for name in _PRIVACY},
        receipt=bool(manifest["privacy"].get("receipt")),
        checks=[
            {name: check[name] for name in ("name", "passed", "value", "threshold")}
            for check in manifest["evaluation"]["checks"]
        ],
        rollout=None
        if rollout is None
        else {name: rollout[name] for name in ("stage", "percent", "mode", "flag")},
        servers={"verified": said.count("verified"), "failed": said.count("failed")},
    )


def producer() -> str:
    """Return the name under which this program's exports are known."""
    return f"urn:discreet:{installed('discreet')}"
