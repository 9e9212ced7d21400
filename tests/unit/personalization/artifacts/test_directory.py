"""The artifact store shows whole versions or nothing, and never bytes that do not match their digest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from personalization.adapters.manifest import (
    AdapterManifest,
    ArtifactFile,
    BaseFingerprint,
    EvaluationSummary,
    GateCheck,
    Lineage,
    LoraShape,
    PrivacyFacts,
    Scope,
    served_name,
)
from personalization.adapters.signing import ManifestSigner, signing_seed
from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.artifacts.files import describe_files
from personalization.errors import (
    ArtifactCorruptError,
    ArtifactFormatError,
    ArtifactNotFoundError,
    ArtifactStoreAwayError,
    ManifestError,
)
from tests.fakes.training import signed_by

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def manifest(source):
    return AdapterManifest(
        line_ref="0123456789ab",
        scope=Scope.TENANT,
        version=1,
        served_name=served_name("0123456789ab", 1),
        created_at="2026-03-02T09:30:00+00:00",
        files=describe_files(source.iterdir()),
        base=BaseFingerprint(
            model_id="tiny",
            revision="",
            config_digest=DIGEST,
            weights_digest=DIGEST,
            tokenizer_digest=DIGEST,
            architecture="LlamaForCausalLM",
            dtype="float32",
        ),
        lora=LoraShape(
            family="core",
            rank=8,
            alpha=8.0,
            target_modules=("q_proj",),
            layers=(1,),
            trainable_parameters=64,
            dtype="F32",
            tensor_digest=DIGEST,
        ),
        privacy=PrivacyFacts(
            unit="user",
            relation="add_or_remove_one",
            mechanism="poisson_sampled_gaussian",
            accountant="discreet-rdp 1",
            release_epsilon=1.0,
            cumulative_epsilon=1.0,
            target_epsilon=8.0,
            delta=1e-6,
            noise_multiplier=2.0,
            sample_rate=0.5,
            steps=30,
            clipping_norm=1.0,
            contribution_bound=8,
            minimum_cohort=20,
            reservation_id="r",
            ledger_entry_hash=DIGEST,
            plan_digest=DIGEST,
        ),
        evaluation=EvaluationSummary(verdict="accepted", checks=(GateCheck(name="finite", passed=True),)),
        lineage=Lineage(
            round_id="r",
            period_index=3,
            start="zero",
            start_version_id=None,
            supersedes=None,
            data_digest=DIGEST,
            code_digest=DIGEST,
        ),
    )


@pytest.fixture
def store(tmp_path):
    return DirectoryArtifactStore(tmp_path / "store")


@pytest.fixture
def signer():
    return ManifestSigner(signing_seed(bytes(32)))


def test_what_was_put_is_read_back_whole(store, manifest, signer, source):
    uri = store.put(manifest, signer.sign(manifest), source)

    version = store.load(manifest.version_id())
    assert version.uri == uri
    assert version.manifest == manifest
    assert {path.name for path in store.open(version.version_id).iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
        "signature.json",
    }
    assert signed_by(signer.public_key, version.manifest.to_bytes(), version.signature)


def test_putting_twice_changes_nothing(store, manifest, signer, source):
    signature = signer.sign(manifest)
    first = store.put(manifest, signature, source)
    (source / "adapter_model.safetensors").write_bytes(b"other")
    assert store.put(manifest, signature, source) == first
    assert (store.open(manifest.version_id()) / "adapter_model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_a_changed_byte_is_never_loaded(store, manifest, signer, source, name):
    store.put(manifest, signer.sign(manifest), source)
    stored = store.root / "sha256" / manifest.version_id()[7:] / name
    stored.write_bytes(stored.read_bytes() + b" ")
    with pytest.raises(ArtifactCorruptError):
        store.open(manifest.version_id())


def test_files_that_do_not_match_the_manifest_leave_nothing_behind(store, manifest, signer, source):
    (source / "adapter_model.safetensors").write_bytes(b"changed")
    with pytest.raises(ArtifactCorruptError):
        store.put(manifest, signer.sign(manifest), source)
    assert list((store.root / "sha256").iterdir()) == list((store.root / "staging").iterdir()) == []


def test_a_full_disk_leaves_nothing_visible(store, manifest, signer, source, monkeypatch):
    def refuse(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("personalization.artifacts.directory.os.fsync", refuse)
    with pytest.raises(ArtifactStoreAwayError, match="is full"):
        store.put(manifest, signer.sign(manifest), source)
    assert list((store.root / "sha256").iterdir()) == list((store.root / "staging").iterdir()) == []


@pytest.mark.parametrize("name", ["model.bin", "run.py", "adapter.pkl", "UPPER.json", "manifest.json"])
def test_only_weights_and_json_can_be_part_of_an_adapter(source, name):
    (source / name).write_bytes(b"x")
    with pytest.raises(ArtifactFormatError):
        describe_files(source.iterdir())


@pytest.mark.parametrize("path", ["../escape.json", "a/b.json", "/etc/passwd"])
def test_a_manifest_cannot_name_a_file_outside(store, manifest, signer, source, path):
    bad = replace(
        manifest, files=(ArtifactFile(path=path, media_type="application/json", size=1, sha256="0" * 64),)
    )
    with pytest.raises(ArtifactFormatError):
        store.put(bad, signer.sign(bad), source)


@pytest.mark.parametrize("version_id", ["sha256:" + "0" * 64, "../../etc", "sha256:zz"])
def test_an_unknown_version_is_not_found(store, version_id):
    with pytest.raises(ArtifactNotFoundError):
        store.open(version_id)


def test_removed_weights_keep_their_manifest(store, manifest, signer, source):
    store.put(manifest, signer.sign(manifest), source)
    assert store.remove_weights(manifest.version_id())
    assert not store.remove_weights(manifest.version_id())
    assert store.manifest(manifest.version_id()) == manifest
    with pytest.raises(ArtifactNotFoundError):
        store.open(manifest.version_id())


def test_a_signature_belongs_to_one_manifest_and_one_key(manifest, signer):
    signature = signer.sign(manifest)
    assert signed_by(signer.public_key, manifest.to_bytes(), signature)
    assert not signed_by(signer.public_key, replace(manifest, version=2).to_bytes(), signature)
    assert not signed_by(ManifestSigner(bytes(32)).public_key, manifest.to_bytes(), signature)


def test_a_manifest_is_read_only_in_its_canonical_form(manifest):
    assert AdapterManifest.from_bytes(manifest.to_bytes()) == manifest
    document = manifest.to_document()
    for data in (
        json.dumps(document, indent=1).encode(),
        json.dumps({**document, "format": "other"}).encode(),
        json.dumps({name: value for name, value in document.items() if name != "lora"}).encode(),
        b"[]",
        b"\xff",
    ):
        with pytest.raises(ManifestError):
            AdapterManifest.from_bytes(data)


def test_a_served_name_fits_every_server():
    assert served_name("0123456789ab", 12) == "a-0123456789ab-v12"
    with pytest.raises(ValueError, match="not allowed"):
        served_name("UPPER", 1)
