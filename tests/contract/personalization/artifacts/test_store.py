"""What every artifact store promises, on a directory and on a real S3 server."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from personalization.adapters.manifest import ArtifactFile
from personalization.adapters.signing import ManifestSigner, signing_seed
from personalization.artifacts.bucket import Bucket
from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.artifacts.files import describe_files
from personalization.artifacts.objects import ObjectArtifactStore
from personalization.artifacts.opening import open_store
from personalization.errors import (
    ArtifactCorruptError,
    ArtifactFormatError,
    ArtifactNotFoundError,
    ArtifactStoreAwayError,
)
from tests.fakes.s3 import s3_server
from tests.fakes.styled_versions import manifest_of
from tests.fakes.training import signed_by

SIGNER = ManifestSigner(signing_seed(bytes(32)))
WEIGHTS = "adapter_model.safetensors"
FUTURE = 4e9  # unix seconds


@pytest.fixture(scope="module")
def server():
    with s3_server() as server:
        yield server


class Shelf:
    """One store, and a way to reach behind its back."""

    def __init__(self, kind, folder, name):
        self.kind = kind
        if kind == "directory":
            self.address = str(folder / "store")
        else:
            self.address = f"s3://adapters/{name}"
        self.folder = folder
        self.store = self.another("local")

    def another(self, local):
        """The same store as another machine sees it."""
        return open_store(self.address, self.folder / local)

    def damage(self, version_id, name):
        if self.kind == "directory":
            path = self.store.root / "sha256" / version_id[7:] / name
            path.write_bytes(path.read_bytes() + b" ")
        else:
            bucket = Bucket(self.address)
            key = f"sha256/{version_id[7:]}/{name}"
            bucket.write(key, bucket.read(key) + b" ")


@pytest.fixture(params=["directory", "s3"])
def shelf(request, server, tmp_path):
    return Shelf(request.param, tmp_path, tmp_path.name)


@pytest.fixture
def store(shelf):
    return shelf.store


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def manifest(source):
    return replace(manifest_of("0123456789ab", 1, "round"), files=describe_files(source.iterdir()))


def put(store, manifest, source):
    return store.put(manifest, SIGNER.sign(manifest), source)


def test_an_address_says_which_store_it_is(shelf):
    expected = {"directory": DirectoryArtifactStore, "s3": ObjectArtifactStore}[shelf.kind]
    assert isinstance(shelf.store, expected)
    shelf.store.ready()


def test_what_was_put_is_read_back_whole_on_every_machine(shelf, manifest, source):
    uri = put(shelf.store, manifest, source)
    assert uri == shelf.store.uri(manifest.version_id())
    assert uri.endswith(f"/sha256/{manifest.version_id()[7:]}")
    other = shelf.another("other")
    version = other.load(manifest.version_id())
    assert (version.uri, version.manifest) == (uri, manifest)
    assert (other.open(version.version_id) / WEIGHTS).read_bytes() == b"weights"
    assert signed_by(SIGNER.public_key, version.manifest.to_bytes(), version.signature)


def test_putting_twice_changes_nothing(store, manifest, source):
    first = put(store, manifest, source)
    (source / WEIGHTS).write_bytes(b"other")
    assert put(store, manifest, source) == first
    assert (store.open(manifest.version_id()) / WEIGHTS).read_bytes() == b"weights"


def test_two_writers_of_one_version_leave_one(shelf, manifest, source):
    stores = [shelf.another(f"writer-{number}") for number in range(4)]
    failures, done = [], []

    def write(store):
        try:
            put(store, manifest, source)
        except ArtifactStoreAwayError as error:
            failures.append(error)
        else:
            done.append(store)

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, len(done)) == ([], 4)
    assert (shelf.store.open(manifest.version_id()) / WEIGHTS).read_bytes() == b"weights"


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json", "manifest.json"])
def test_a_changed_byte_is_never_loaded(shelf, manifest, source, name):
    put(shelf.store, manifest, source)
    shelf.damage(manifest.version_id(), name)
    with pytest.raises(ArtifactCorruptError):
        shelf.another("other").open(manifest.version_id())
    with pytest.raises(ArtifactCorruptError):
        put(shelf.another("third"), manifest, source)


def test_files_that_do_not_match_the_manifest_are_no_version(store, manifest, source):
    (source / WEIGHTS).write_bytes(b"changed")
    with pytest.raises(ArtifactCorruptError):
        put(store, manifest, source)
    with pytest.raises(ArtifactNotFoundError):
        store.open(manifest.version_id())


def test_the_manifest_comes_last(shelf, manifest, source, monkeypatch):
    """A writer that dies at any moment leaves a version that nobody finds; another one completes it."""
    if shelf.kind != "s3":
        pytest.skip("a directory appears by one rename")
    written = []
    for steps in range(4):
        bucket = shelf.store._bucket
        create, write = bucket.create, bucket.write
        left = [steps]

        def stumble(then, *arguments, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            written.append(arguments[0].rpartition("/")[2])
            return then(*arguments)

        monkeypatch.setattr(bucket, "create", lambda *a, c=create: stumble(c, *a))
        monkeypatch.setattr(bucket, "write", lambda *a, w=write: stumble(w, *a))
        with pytest.raises(KeyboardInterrupt):
            put(shelf.store, manifest, source)
        monkeypatch.undo()
        with pytest.raises(ArtifactNotFoundError):
            shelf.another(f"reader-{steps}").open(manifest.version_id())
    assert "manifest.json" not in written
    put(shelf.store, manifest, source)
    assert shelf.another("last").open(manifest.version_id())


@pytest.mark.parametrize("path", ["../escape.json", "a/b.json", "/etc/passwd", "signature.json", "run.py"])
def test_a_manifest_cannot_name_any_other_file(store, manifest, source, path):
    entry = ArtifactFile(path=path, media_type="application/json", size=1, sha256="0" * 64)
    with pytest.raises(ArtifactFormatError):
        put(store, replace(manifest, files=(entry,)), source)


@pytest.mark.parametrize("version_id", ["sha256:" + "0" * 64, "../../etc", "sha256:zz"])
def test_an_unknown_version_is_not_found(store, version_id):
    with pytest.raises(ArtifactNotFoundError):
        store.open(version_id)


def test_removed_weights_keep_their_manifest_and_are_opened_nowhere(shelf, manifest, source):
    store, other = shelf.store, shelf.another("other")
    put(store, manifest, source)
    other.open(manifest.version_id())
    assert store.remove_weights(manifest.version_id())
    assert not store.remove_weights(manifest.version_id())
    assert not store.remove_weights("sha256:" + "1" * 64)
    assert other.manifest(manifest.version_id()) == manifest
    for one in (store, other):
        with pytest.raises(ArtifactNotFoundError, match="were removed"):
            one.open(manifest.version_id())


def test_a_sweep_takes_what_is_old_and_named_by_nobody(store, manifest, source):
    kept, orphan = manifest, replace(manifest, version=2)
    for one in (kept, orphan):
        put(store, one, source)
    scratch = store.scratch("average-1")
    scratch.mkdir()
    asked = []

    def names(found):
        asked.append(list(found))
        return {kept.version_id()}

    assert store.sweep(names, older_than=time.time() - 3600) == ()
    assert asked == []
    assert store.sweep(names, older_than=FUTURE) == (orphan.version_id(),)
    assert set(asked[0]) == {kept.version_id(), orphan.version_id(), "staging/average-1"}
    assert store.open(kept.version_id())
    assert not scratch.exists()
    with pytest.raises(ArtifactNotFoundError):
        store.open(orphan.version_id())


def test_a_sweep_leaves_what_is_put_again_while_it_looks(shelf, manifest, source):
    store = shelf.store
    put(store, manifest, source)
    time.sleep(1.1)  # S3 tells whole seconds
    moment = time.time()

    def names(_found):
        time.sleep(1.1)
        put(shelf.another("publisher"), manifest, source)
        return ()

    assert store.sweep(names, older_than=moment) == ()
    assert store.open(manifest.version_id())


def test_the_first_result_of_a_reservation_is_the_only_one(shelf, source, tmp_path):
    first, second = shelf.store.candidates, shelf.another("other").candidates
    assert first.find("r-1") is None
    kept = first.keep("r-1", source, b'{"n": 1}')
    assert (kept.notes, (kept.adapter / WEIGHTS).read_bytes()) == (b'{"n": 1}', b"weights")
    (source / WEIGHTS).write_bytes(b"of another run")
    again = second.keep("r-1", source, b'{"n": 2}')
    assert (again.notes, (again.adapter / WEIGHTS).read_bytes()) == (b'{"n": 1}', b"weights")
    second.sweep(older_than=time.time() - 3600)
    assert first.find("r-1") is not None
    second.forget("r-1")
    assert first.find("r-1") is None
    first.keep("r-2", source, b"{}")
    first.sweep(older_than=FUTURE)
    assert first.find("r-2") is None
    with pytest.raises(ArtifactFormatError):
        first.find("../r-1")


def test_a_result_that_another_trainer_took_up_and_forgot_is_gone(shelf, source, monkeypatch):
    candidates = shelf.store.candidates
    monkeypatch.setattr(candidates, "find", lambda _: None)  # so soon after it was stored
    with pytest.raises(ArtifactCorruptError, match="is gone"):
        candidates.keep("r-1", source, b"{}")


def test_two_processes_of_one_machine_fetch_a_version_at_once(
    server, manifest, source, tmp_path, monkeypatch
):
    shelf = Shelf("s3", tmp_path, tmp_path.name)
    put(shelf.store, manifest, source)
    one, other = shelf.another("machine"), shelf.another("machine")
    read, opened = Bucket.read, []

    def read_while_the_other_is_faster(bucket, key):
        if key.endswith(WEIGHTS) and not opened:
            opened.append(None)
            opened[0] = other.open(manifest.version_id()).stat().st_ino
        return read(bucket, key)

    monkeypatch.setattr(Bucket, "read", read_while_the_other_is_faster)
    assert (
        one.open(manifest.version_id()).stat().st_ino == opened[0]
    )  # still what the other one may be reading


def test_a_store_that_is_away_says_so_and_takes_files_when_it_is_back(manifest, source, tmp_path):
    with s3_server() as server:
        store = open_store("s3://adapters/p", tmp_path / "local")
        store.ready()
        port = server.get_host_and_port()[1]
        server.stop()
        for ask in (
            store.ready,
            lambda: put(store, manifest, source),
            lambda: store.open(manifest.version_id()),
            lambda: store.candidates.keep("r-1", source, b"{}"),
        ):
            with pytest.raises(ArtifactStoreAwayError, match="nothing was lost") as told:
                ask()
            assert told.value.retryable
    assert port


def test_a_bucket_that_is_not_there_or_refuses_is_told_as_away(server, manifest, source, tmp_path):
    store = open_store("s3://no-such-bucket/p", tmp_path / "local")
    with pytest.raises(ArtifactStoreAwayError):
        store.ready()


def test_a_full_directory_is_told_as_away_and_holds_nothing(manifest, source, tmp_path, monkeypatch):
    store = DirectoryArtifactStore(tmp_path / "store")

    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("personalization.artifacts.directory.os.fsync", refuse)
    monkeypatch.setattr("personalization.artifacts.candidates.os.fsync", refuse)
    for ask in (
        store.ready,
        lambda: put(store, manifest, source),
        lambda: store.candidates.keep("r", source, b"{}"),
    ):
        with pytest.raises(ArtifactStoreAwayError, match="is full"):
            ask()
    monkeypatch.undo()
    store.ready()
    assert [*(store.root / "sha256").iterdir(), *(store.root / "staging").iterdir()] == []
    assert store.candidates.find("r") is None
