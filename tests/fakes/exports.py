"""A version as exports tell of it."""

from __future__ import annotations

from streams.exports.facts import Exported

PRIVACY = {
    "unit": "user", "relation": "add_or_remove_one", "mechanism": "poisson_sampled_gaussian", "accountant": "rdp",
    "release_epsilon": 0.5, "cumulative_epsilon": 1.0, "target_epsilon": 8.0, "delta": 1e-6, "noise_multiplier": 4.0,
    "sample_rate": 1.0, "steps": 4, "clipping_norm": 1.0, "contribution_bound": 8, "minimum_cohort": 10,
    "reservation_id": "r-1", "ledger_entry_hash": "sha256:" + "a" * 64, "plan_digest": "sha256:" + "b" * 64,
}  # fmt: skip


def exported_version(**changes) -> Exported:
    facts = {
        "tenant": "acme",
        "domain": "legal",
        "line_ref": "0123456789ab",
        "version": 3,
        "version_id": "sha256:" + "c" * 64,
        "served_name": "a-0123456789ab-v3",
        "state": "published",
        "published_at": "2026-11-29T12:00:00+00:00",
        "scheduled_for": "2026-11-29T11:00:00+00:00",
        "round_id": "6f1c8a70-0f5e-4f8e-9a43-5a4d2f4b7f10",
        "inputs": [
            {"topic": "discreet.interactions.v1", "partition": 0, "next_offset": 41},
            {"topic": "discreet.interactions.v1", "partition": 1, "next_offset": 7},
            {"topic": "discreet.consent.v1", "partition": 0, "next_offset": 5},
        ],
        "base": {"model_id": "base", "revision": "1", "architecture": "LlamaForCausalLM"},
        "shape": {"family": "b_only", "rank": 4, "trainable_parameters": 1024},
        "privacy": PRIVACY,
        "receipt": True,
        "checks": [
            {"name": "public_text", "passed": True, "value": 0.001, "threshold": 0.01},
            {"name": "finite", "passed": True, "value": None, "threshold": None},
        ],
        "rollout": {"stage": "canary", "percent": 10.0, "mode": "free", "flag": "on"},
        "servers": {"verified": 2, "failed": 0},
    }
    return Exported(**{**facts, **changes})
