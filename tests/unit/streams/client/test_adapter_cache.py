"""The cache on a server's disk: all of a verified version, or nothing."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest

from streams.client import (
    AdapterCache,
    AdapterRefusedError,
    ArtifactFetchError,
    DigestMismatchError,
    SignatureInvalidError,
    UnsafeArtifactError,
)
from streams.client.testing import FakeLine, FakeSigner
from streams.contracts.errors import InvalidEventError

OTHER_DIGEST = "sha256:" + 64 * "9"


@pytest.fixture
def line(tmp_path):
    return FakeLine(tmp_path / "store")


@pytest.fixture
def cache(tmp_path):
    return AdapterCache(tmp_path / "cache", trusted_keys=[FakeSigner().public_key])


def source_of(version):
    from pathlib import Path

    return Path(version.uri.removeprefix("file://"))


def assert_clean(cache):
    assert list(cache._staging.iterdir()) == []


def test_a_version_is_fetched_once_and_lies_under_its_served_name(cache, line):
    version = line.version(1)
    path = cache.obtain(version)
    assert path == cache.path(version.served_name)
    assert {each.name for each in path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    assert (path / "manifest.json").read_bytes() == version.manifest.canonical_bytes()
    source = source_of(version)
    (source / "adapter_model.safetensors").unlink()
    assert cache.obtain(version) == path  # intact on disk: not fetched again
    assert cache.held() == [version.served_name]
    assert_clean(cache)


def test_damaged_files_are_fetched_again(cache, line):
    version = line.version(1)
    path = cache.obtain(version)
    (path / "adapter_model.safetensors").write_bytes(b"damaged")
    cache.obtain(version)
    assert (path / "adapter_model.safetensors").read_bytes() != b"damaged"
    (path / "adapter_config.json").unlink()
    cache.obtain(version)
    assert (path / "adapter_config.json").exists()


@pytest.mark.parametrize("content", [b"", b"shorter", b"longer" * 100])
def test_bytes_that_differ_from_the_manifest_are_refused(cache, line, content):
    version = line.version(1)
    (source_of(version) / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(DigestMismatchError, match=r"adapter_model\.safetensors"):
        cache.obtain(version)
    assert cache.held() == []
    assert_clean(cache)


def test_what_no_trusted_key_signed_is_refused(cache, tmp_path):
    stranger = FakeLine(tmp_path / "s", signer=FakeSigner(b"another seed of a test key 32 by"))
    with pytest.raises(SignatureInvalidError, match="not trusted"):
        cache.obtain(stranger.version(1))


def test_a_changed_manifest_or_signature_is_refused(cache, line):
    version, other = line.version(1), line.version(2)
    with pytest.raises(DigestMismatchError):
        cache.obtain(version.model_copy(update={"manifest": other.manifest}))
    with pytest.raises(SignatureInvalidError, match="does not fit"):
        cache.obtain(version.model_copy(update={"signature": other.signature}))


def test_an_adapter_for_another_base_is_refused(line, tmp_path):
    version = line.version(1)
    base = version.manifest.base
    keys = [FakeSigner().public_key]
    AdapterCache(tmp_path / "a", trusted_keys=keys, base=base).obtain(version)
    other = base.model_copy(update={"weights_digest": OTHER_DIGEST})
    with pytest.raises(AdapterRefusedError, match="weights_digest"):
        AdapterCache(tmp_path / "b", trusted_keys=keys, base=other).obtain(version)


def file_entry(version, **changes):
    entries = [entry.model_dump() for entry in version.manifest.files]
    return {**entries[1], **changes}


def test_only_plain_safetensors_adapters_are_taken(cache, line):
    version = line.version(1)
    config, weights = (entry.model_dump() for entry in version.manifest.files)
    for path in ("../escape.json", "weights.bin", "run.py", "/etc/x.json", "a/b.json"):
        with pytest.raises(InvalidEventError, match="path"):
            line.version(1, files=[config, {**weights, "path": path}])
    for files in (
        [config],
        [weights],
        [config, weights, weights],
        [config, weights, {**config, "path": "manifest.json"}],
    ):
        with pytest.raises(UnsafeArtifactError):
            cache.obtain(line.version(1, files=files))
    with pytest.raises(UnsafeArtifactError, match="at most"):
        cache.obtain(line.version(1, files=[config, {**weights, "size": 1 << 40}]))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04pickle", (2**40).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"],
)
def test_a_file_that_only_claims_to_be_safetensors_is_refused(cache, line, content):
    import hashlib

    version = line.version(1)
    config, weights = (entry.model_dump() for entry in version.manifest.files)
    claimed = {**weights, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    planted = line.version(1, files=[config, claimed])
    (source_of(planted) / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UnsafeArtifactError, match="safetensors format"):
        cache.obtain(planted)
    assert cache.held() == []
    assert_clean(cache)


def test_an_address_that_cannot_be_read_is_told_apart_from_a_bad_artifact(cache, line):
    version = line.version(1)
    for uri in ("s3://bucket/x", "file:///nowhere", "http://127.0.0.1:1/x"):
        with pytest.raises(ArtifactFetchError) as refused:
            cache.obtain(version.model_copy(update={"uri": uri}))
        assert refused.value.retryable
    assert_clean(cache)


def test_artifacts_come_over_http_and_through_own_fetchers(line, tmp_path):
    version = line.version(1)
    source = source_of(version)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    keys = [FakeSigner().public_key]
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=source)
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_address[1]}/"
        cache = AdapterCache(tmp_path / "web", trusted_keys=keys)
        assert cache.obtain(version.model_copy(update={"uri": uri})).is_dir()
        server.shutdown()
    asked = []

    def fetch(uri, limit):
        asked.append(uri)
        return (source / uri.rsplit("/", 1)[1]).read_bytes()[:limit]

    cache = AdapterCache(tmp_path / "own", trusted_keys=keys, fetchers={"s3": fetch})
    cache.obtain(version.model_copy(update={"uri": "s3://bucket/x"}))
    assert asked == ["s3://bucket/x/adapter_config.json", "s3://bucket/x/adapter_model.safetensors"]


def test_a_transfer_that_broke_off_is_told_apart_from_other_bytes(cache, line):
    class Breaks(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Breaks)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        version = line.version(1)
        version = version.model_copy(update={"uri": f"http://127.0.0.1:{server.server_port}"})
        with pytest.raises(ArtifactFetchError) as error:
            cache.obtain(version)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert error.value.retryable
    assert_clean(cache)


def test_removing_takes_a_version_off_the_disk(cache, line):
    version = line.version(1)
    cache.obtain(version)
    assert cache.remove(version.served_name)
    assert not cache.remove(version.served_name)
    assert not cache.remove("../staging")
    assert cache.held() == []
    assert_clean(cache)


def test_what_a_crash_left_behind_is_cleared(tmp_path, line):
    keys = [FakeSigner().public_key]
    AdapterCache(tmp_path / "c", trusted_keys=keys)
    (tmp_path / "c" / "staging" / "half").mkdir()
    cache = AdapterCache(tmp_path / "c", trusted_keys=keys)
    assert_clean(cache)
