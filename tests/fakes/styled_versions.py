"""Registered versions that carry a style card, without a training round behind them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from personalization.adapters.manifest import (
    AdapterManifest,
    ArtifactFile,
    BaseFingerprint,
    EvaluationSummary,
    Lineage,
    LoraShape,
    PrivacyFacts,
    Scope,
    StyleFacts,
    VersionState,
    served_name,
)
from personalization.registry.queries import find_line
from personalization.registry.tables import AdapterVersionRow
from personalization.rounds.queries import open_round
from personalization.rounds.tables import RoundRow
from personalization.starts.choosing import blend_fact
from personalization.styles.grammar import constraint_of
from personalization.styles.prompting import template_of

DIGEST = "sha256:" + 64 * "a"


def style_of(card, public_part=None) -> StyleFacts:
    constraint = constraint_of(card)
    return StyleFacts(
        card=card.to_document(),
        card_digest=card.digest(),
        prompt=template_of(card),
        pattern=constraint.pattern,
        grammar=constraint.grammar,
        public_part=public_part,
    )


def manifest_of(line_ref: str, version: int, round_id: str, card=None, public_part=None) -> AdapterManifest:
    return AdapterManifest(
        line_ref=line_ref,
        scope=Scope.TENANT,
        version=version,
        served_name=served_name(line_ref, version),
        created_at="2026-03-02T09:30:00+00:00",
        files=(
            ArtifactFile(
                path="adapter_model.safetensors",
                media_type="application/vnd.safetensors",
                size=12,
                sha256=64 * "b",
            ),
        ),
        base=BaseFingerprint(
            model_id="tiny", revision="", config_digest=DIGEST, weights_digest=DIGEST, tokenizer_digest=DIGEST,
            architecture="LlamaForCausalLM", dtype="float32",
        ),
        lora=LoraShape(
            family="core", rank=8, alpha=8, target_modules=("q_proj",), layers=(1,), trainable_parameters=64,
            dtype="float32", tensor_digest=DIGEST,
        ),
        privacy=PrivacyFacts(
            unit="user", relation="add_or_remove_one", mechanism="poisson-gaussian", accountant="rdp",
            release_epsilon=1.0, cumulative_epsilon=1.0, target_epsilon=8.0, delta=1e-5, noise_multiplier=4.0,
            sample_rate=0.5, steps=4, clipping_norm=1.0, contribution_bound=4, minimum_cohort=20, reservation_id="r-1",
            ledger_entry_hash=DIGEST, plan_digest=DIGEST,
        ),
        evaluation=EvaluationSummary(verdict="accepted", checks=(), probes=()),
        lineage=Lineage(
            round_id=round_id, period_index=0, start="zero", start_version_id=None, supersedes=None,
            data_digest=DIGEST, code_digest=DIGEST,
        ),
        style=None if card is None else style_of(card, public_part),
    )  # fmt: skip


def keep_version(
    session,
    clock,
    card=None,
    *,
    tenant_id="acme",
    domain="default",
    state=VersionState.PUBLISHED,
    public_part=None,
    blend_with=None,
):
    """Register a version of a tenant that is registered already, and return its manifest.

    Its memory goes on from one other version where ``blend_with`` names that.
    """
    row = open_round(session, tenant_id, domain, actor="test", now=clock.now())
    session.get(RoundRow, row.round_id).state = "done"
    line = find_line(session, tenant_id, domain)
    line.last_version += 1
    manifest = manifest_of(line.line_ref, line.last_version, row.round_id, card, public_part)
    blend = blend_fact(blend_with, 0.5)
    if blend is not None:
        manifest = replace(manifest, evaluation=replace(manifest.evaluation, checks=(blend,)))
    session.add(
        AdapterVersionRow(
            version_id=manifest.version_id(),
            line_ref=line.line_ref,
            tenant_id=tenant_id,
            domain=domain,
            version=line.last_version,
            served_name=manifest.served_name,
            state=state.value,
            round_id=row.round_id,
            reservation_id="r-1",
            ledger_entry_hash=DIGEST,
            base_digest=DIGEST,
            uri="file:///artifacts",
            manifest_json=manifest.to_bytes().decode(),
            signature_json=json.dumps({"key_id": "k", "signature": hashlib.sha256(b"s").hexdigest()}),
            published_at=clock.now(),
        )
    )
    session.flush()
    return manifest
