"""A server fetches a version from a real S3 server, checks it, and says when the store is away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from personalization.adapters.signing import ManifestSigner, signing_seed
from personalization.artifacts.files import describe_files
from personalization.artifacts.opening import open_store
from streams.client import AdapterCache, AdapterVersionV1
from streams.client.errors import ArtifactFetchError, DigestMismatchError
from streams.serving.fetching import fetchers
from tests.fakes.adapters_on_disk import write_adapter
from tests.fakes.s3 import s3_server
from tests.fakes.styled_versions import manifest_of
from tests.fakes.tiny_models import write_tiny_base


def test_a_version_in_a_bucket_is_fetched_checked_and_told_as_away(tmp_path):
    source = write_adapter(write_tiny_base(tmp_path / "base"), tmp_path / "source", seed=1)
    signer = ManifestSigner(signing_seed(bytes(32)))
    manifest = replace(manifest_of("0123456789ab", 1, "r"), files=describe_files(source.iterdir()))
    with s3_server() as server:
        store = open_store("s3://adapters/prefix", tmp_path / "local")
        signature = signer.sign(manifest)
        uri = store.put(manifest, signature, source)
        version = AdapterVersionV1.from_manifest_bytes(
            manifest.to_bytes(), uri=uri, key_id=signature.key_id, signature=signature.signature
        )

        def cache(name):
            return AdapterCache(tmp_path / name, trusted_keys=[signer.public_key], fetchers=fetchers())

        directory = cache("one").obtain(version)
        assert (directory / "adapter_model.safetensors").read_bytes() == (
            source / "adapter_model.safetensors"
        ).read_bytes()
        other = f"sha256/{version.version_id[7:]}/adapter_model.safetensors"
        store._bucket.write(other, store._bucket.read(other)[:-1] + b"\xff")
        with pytest.raises(DigestMismatchError):
            cache("two").obtain(version)
        store.remove_weights(version.version_id)
        with pytest.raises(ArtifactFetchError):
            cache("three").obtain(version)
        server.stop()
        with pytest.raises(ArtifactFetchError) as told:
            cache("four").obtain(version)
        assert told.value.retryable
