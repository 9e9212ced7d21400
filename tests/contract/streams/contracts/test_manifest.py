"""A manifest signed by the registry is the same on the wire, and the client's check accepts it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from personalization.adapters import manifest as adapters
from personalization.adapters import signing
from personalization.adapters.activation import Activation, ProbePoint, TokenProbe
from personalization.styles.card import StyleCard
from personalization.training.jobs.receipt import Receipt, SignedReceipt, public_key_of
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from streams.client import DigestMismatchError
from streams.client.signatures import TrustedKeys, key_id
from streams.contracts import manifest as wire
from streams.contracts.errors import InvalidEventError
from tests.fakes.styled_versions import style_of
from tests.fakes.styles import framed

DIGEST = "sha256:" + 64 * "a"
CARD = framed({"KAFKA-{n}: ": 0.6, "{{Grüß}} – 😀 ": 1 / 3}, {" (#{n})": 0.9})
RECEIPT = Receipt(
    mechanism=PoissonSampledGaussian(
        noise_multiplier=2.0, sample_rate=1 / 3, steps=10, clipping_norm=1.0, contribution_bound=4
    ),
    plan_digest=DIGEST,
    steps=10,
    noise_count=10_000,
    noise_tolerance=0.1 + 0.2,
    noise_ok=True,
    distinct_steps_ok=True,
    coins_ok=True,
    largest_norm_ok=True,
)


@pytest.fixture
def manifest():
    return adapters.AdapterManifest(
        line_ref="5b0c9d2e7f31",
        scope=adapters.Scope.TENANT,
        version=3,
        served_name=adapters.served_name("5b0c9d2e7f31", 3),
        created_at="2026-03-02T09:30:00+00:00",
        files=(
            adapters.ArtifactFile(
                path="adapter_model.safetensors",
                media_type="application/vnd.safetensors",
                size=12,
                sha256=64 * "b",
            ),
        ),
        base=adapters.BaseFingerprint(
            model_id="tiny",
            revision="",
            config_digest=DIGEST,
            weights_digest=DIGEST,
            tokenizer_digest="",
            architecture="LlamaForCausalLM",
            dtype="float32",
        ),
        lora=adapters.LoraShape(
            family="b_only",
            rank=8,
            alpha=8,  # a whole number where a float is declared stays one
            target_modules=("q_proj",),
            layers=(1, 2),
            trainable_parameters=64,
            dtype="float32",
            tensor_digest=DIGEST,
        ),
        privacy=adapters.PrivacyFacts(
            unit="user",
            relation="add_or_remove_one",
            mechanism="poisson-gaussian",
            accountant="rdp",
            release_epsilon=0.1 + 0.2,
            cumulative_epsilon=math.pi,
            target_epsilon=8,
            delta=1e-7,
            noise_multiplier=1e-300,
            sample_rate=1 / 3,
            steps=10,
            clipping_norm=1.0,
            contribution_bound=4,
            minimum_cohort=10,
            reservation_id="r-1",
            ledger_entry_hash=DIGEST,
            plan_digest=DIGEST,
            receipt=SignedReceipt.of(RECEIPT, bytes(32)).to_document(),
            audit=adapters.AuditFacts(
                depth="mechanism",
                canaries=16_384,
                confidence=0.95,
                delta=1e-7,
                claimed_epsilon=4.106,
                empirical_epsilon=3.602,
                one_run_epsilon=1.662,
                trials_epsilon=1.467,
                noise_ratio_epsilon=3.602,
                noise_ratio=1.044804,
            ),
        ),
        evaluation=adapters.EvaluationSummary(
            verdict="accepted",
            checks=(adapters.GateCheck(name="effect", passed=True, value=0.5),),
            activation=Activation.measured(
                (
                    TokenProbe(
                        prompt="Grüß Gott – 😀",
                        completion="Hi",
                        tokens=(1, 7, 9),
                        points=(
                            ProbePoint(after=2, tokens=(4, 9), base=(-1.5, -2.0), adapter=(-0.25, -2.125)),
                        ),
                    ),
                ),
                "float32",
            ),
        ),
        lineage=adapters.Lineage(
            round_id="round-3",
            period_index=7,
            start="zero",
            start_version_id=None,
            supersedes=DIGEST,
            data_digest="hmac-sha256:" + 64 * "c",
            code_digest=DIGEST,
        ),
        style=style_of(CARD),
    )


def on_the_wire(manifest, signer):
    signature = signer.sign(manifest)
    sent = wire.AdapterVersionV1.from_manifest_bytes(
        manifest.to_bytes(), uri="file:///x", key_id=signature.key_id, signature=signature.signature
    )
    return wire.AdapterVersionV1.model_validate_json(sent.model_dump_json())


def test_the_client_accepts_what_the_registry_signed(manifest):
    signer = signing.ManifestSigner(bytes(range(32)))
    received = on_the_wire(manifest, signer)
    assert received.version_id == manifest.version_id()
    assert received.manifest.canonical_bytes() == manifest.to_bytes()
    assert received.served_name == manifest.served_name
    assert key_id(signer.public_key) == signing.key_id(signer.public_key) == received.signature.key_id
    TrustedKeys([signer.public_key]).check(received)


def test_the_two_ends_agree_on_every_field_and_on_what_is_signed(manifest):
    assert wire.MANIFEST_FORMAT == adapters.MANIFEST_FORMAT
    assert wire.signed_bytes(b"m") == signing.pre_authentication_encoding(b"m")
    document = manifest.to_document()
    assert set(document) == set(wire.ManifestV1.model_fields)
    for group, model in (
        ("base", wire.BaseFingerprintV1),
        ("lora", wire.LoraShapeV1),
        ("privacy", wire.PrivacyFactsV1),
        ("evaluation", wire.EvaluationV1),
        ("lineage", wire.LineageV1),
        ("style", wire.StyleV1),
    ):
        later = {"privacy": {"receipt"}, "evaluation": {"suites"}}.get(
            group, set()
        )  # where a version has none
        assert set(document[group]) | later == set(model.model_fields), group
    assert set(document["privacy"]["audit"]) == set(wire.AuditFactsV1.model_fields)
    assert set(document["files"][0]) == set(wire.ArtifactFileV1.model_fields)
    assert set(document["evaluation"]["checks"][0]) == set(wire.GateCheckV1.model_fields)
    activation = document["evaluation"]["activation"]
    assert set(activation) == set(wire.ActivationV1.model_fields)
    assert set(activation["probes"][0]) == set(wire.TokenProbeV1.model_fields)
    assert set(activation["probes"][0]["points"][0]) == set(wire.ProbePointV1.model_fields)


def test_a_manifest_from_before_there_were_measurements_is_read_as_it_was_written(manifest):
    signer = signing.ManifestSigner(bytes(range(32)))
    earlier = replace(manifest, evaluation=replace(manifest.evaluation, activation=None))
    assert b'"activation"' not in earlier.to_bytes()
    assert adapters.AdapterManifest.from_bytes(earlier.to_bytes()) == earlier
    received = on_the_wire(earlier, signer)
    assert received.manifest.canonical_bytes() == earlier.to_bytes()
    assert received.manifest.evaluation.activation is None


def test_a_manifest_from_before_there_were_audits_is_read_as_it_was_written(manifest):
    signer = signing.ManifestSigner(bytes(range(32)))
    earlier = replace(manifest, privacy=replace(manifest.privacy, audit=None))
    assert b'"audit"' not in earlier.to_bytes()
    assert adapters.AdapterManifest.from_bytes(earlier.to_bytes()) == earlier
    received = on_the_wire(earlier, signer)
    assert received.manifest.canonical_bytes() == earlier.to_bytes()
    assert adapters.AdapterManifest.from_bytes(manifest.to_bytes()) == manifest


def test_the_receipt_travels_as_it_was_signed(manifest):
    received = on_the_wire(manifest, signing.ManifestSigner(bytes(range(32))))
    document = received.manifest.model_dump(mode="json")["privacy"]["receipt"]
    SignedReceipt.from_document(document).verify(public_key_of(bytes(32)))
    assert set(document["receipt"]) == set(wire.ReceiptV1.model_fields)
    assert set(document) == set(wire.SignedReceiptV1.model_fields)


def test_a_manifest_without_a_receipt_has_the_bytes_it_always_had(manifest):
    without = replace(manifest, privacy=replace(manifest.privacy, receipt=None))
    assert b"receipt" not in without.to_bytes()
    assert adapters.AdapterManifest.from_bytes(without.to_bytes()) == without
    assert adapters.AdapterManifest.from_bytes(manifest.to_bytes()) == manifest
    received = on_the_wire(without, signing.ManifestSigner(bytes(range(32))))
    assert received.manifest.privacy.receipt is None
    assert received.manifest.canonical_bytes() == without.to_bytes()


def test_the_style_card_travels_as_it_was_found(manifest):
    received = on_the_wire(manifest, signing.ManifestSigner(bytes(range(32))))
    style = received.manifest.model_dump(mode="json")["style"]
    assert StyleCard.from_document(style["card"]) == CARD
    assert style["card_digest"] == CARD.digest()
    assert style["pattern"] == manifest.style.pattern != ""
    assert style["prompt"] == manifest.style.prompt != ""


def test_a_manifest_without_a_card_has_the_bytes_it_always_had(manifest):
    without = replace(manifest, style=None)
    assert b"style" not in without.to_bytes()
    assert adapters.AdapterManifest.from_bytes(without.to_bytes()) == without
    received = on_the_wire(without, signing.ManifestSigner(bytes(range(32))))
    assert received.manifest.style is None
    assert received.manifest.canonical_bytes() == without.to_bytes()


def test_a_changed_privacy_fact_is_found(manifest):
    signer = signing.ManifestSigner(bytes(range(32)))
    received = on_the_wire(manifest, signer)
    flattered = replace(manifest, privacy=replace(manifest.privacy, cumulative_epsilon=0.1))
    forged = received.model_copy(
        update={"manifest": wire.ManifestV1.model_validate_json(flattered.to_bytes())}
    )
    with pytest.raises(DigestMismatchError):
        TrustedKeys([signer.public_key]).check(forged)


def test_a_manifest_that_is_not_canonical_is_not_sent(manifest):
    with pytest.raises(InvalidEventError, match="canonical"):
        wire.AdapterVersionV1.from_manifest_bytes(
            manifest.to_bytes() + b" ", uri="file:///x", key_id="k", signature="A" * 86 + "=="
        )
    with pytest.raises(InvalidEventError, match="served_name"):
        wire.AdapterVersionV1.from_manifest_bytes(
            replace(manifest, served_name="Not Allowed").to_bytes(),
            uri="file:///x",
            key_id="k",
            signature="A" * 86 + "==",
        )
