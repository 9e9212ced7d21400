"""A content-addressed store of adapter versions in an S3-compatible object store, for trainers on several machines.

    <prefix>/sha256/<64 hex>/<file>       the files, then signature.json, then manifest.json
    <prefix>/candidates/<reservation>/…   results that are not published yet

An object appears whole or not at all, and the manifest is created last and never over another, so a reader who finds
it finds everything. What is opened is copied to this machine and checked there, byte by byte, each time.
"""

from __future__ import annotations

import json
import shutil
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from personalization.adapters.manifest import AdapterVersion, Signature
from personalization.artifacts.candidates import Kept, require_reservation
from personalization.artifacts.files import (
    MANIFEST,
    SIGNATURE,
    check_bytes,
    folder_of,
    manifest_of,
    require_name,
    weights_gone,
)
from personalization.errors import ArtifactCorruptError, ArtifactNotFoundError
from privacy.canonical import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from personalization.adapters.manifest import AdapterManifest
    from personalization.artifacts.bucket import Bucket

_VERSIONS: Final = "sha256"
_CANDIDATES: Final = "candidates"
_NOTES: Final = "notes.json"


class ObjectArtifactStore:
    """``ArtifactStore`` in a bucket.

    Args:
        bucket: where the versions lie.
        local: directory of this machine for copies and scratch; nothing in it is needed after a restart.
    """

    def __init__(self, bucket: Bucket, local: Path) -> None:
        self._bucket = bucket
        self._copies = local.resolve() / "sha256"
        self._staging = local.resolve() / "staging"
        self._copies.mkdir(parents=True, exist_ok=True)
        self._staging.mkdir(exist_ok=True)
        self.candidates = ObjectCandidates(bucket, local.resolve() / _CANDIDATES)

    def ready(self) -> None:
        """Write, read and delete a little; raises as the protocol says."""
        key, data = f"ready/{uuid.uuid4().hex}", uuid.uuid4().bytes
        self._bucket.create(key, data)
        self._bucket.delete([key])

    def uri(self, version_id: str) -> str:
        """Return the ``s3://`` address of a version, whether or not it is stored."""
        return f"{self._bucket.address}/{_VERSIONS}/{folder_of(version_id)}"

    def put(self, manifest: AdapterManifest, signature: Signature, source: Path) -> str:
        """Store a version; raises as the protocol says."""
        version_id = manifest.version_id()
        for entry in manifest.files:
            require_name(entry.path)
        if self._has(version_id):
            self._take_up(version_id)
            return self.uri(version_id)
        for entry in manifest.files:
            data = (source / entry.path).read_bytes()
            check_bytes(data, entry)
            key = self._key(version_id, entry.path)
            if not self._bucket.create(key, data):
                check_bytes(self._bucket.read(key), entry)  # of an attempt that came no further
        self._bucket.write(self._key(version_id, SIGNATURE), canonical_json(signature.to_document()))
        if not self._bucket.create(self._key(version_id, MANIFEST), manifest.to_bytes()):
            self._take_up(version_id)  # another writer stored the same version in the meantime
        return self.uri(version_id)

    def open(self, version_id: str) -> Path:
        """Return a local copy of a version, checked; raises as the protocol says."""
        manifest = self.manifest(version_id)
        copy = self._copies / folder_of(version_id)
        stored = {key.rpartition("/")[2] for key in self._bucket.written(self._key(version_id, ""))}
        if not {entry.path for entry in manifest.files} <= stored:
            shutil.rmtree(copy, ignore_errors=True)
            raise weights_gone(version_id)
        if not _is_whole(copy, manifest):
            self._fetch(manifest, copy)
        return copy

    def manifest(self, version_id: str) -> AdapterManifest:
        """Return the stored manifest, checked against its digest; raises as the protocol says."""
        try:
            data = self._bucket.read(self._key(version_id, MANIFEST))
        except FileNotFoundError as error:
            raise ArtifactNotFoundError(f"no artifact {version_id} is stored; check the digest") from error
        return manifest_of(data, version_id)

    def load(self, version_id: str) -> AdapterVersion:
        """Return a stored version with its signature (not verified here: that needs a trusted key)."""
        manifest = self.manifest(version_id)
        document = json.loads(self._bucket.read(self._key(version_id, SIGNATURE)))
        return AdapterVersion(
            manifest=manifest,
            version_id=version_id,
            uri=self.uri(version_id),
            signature=Signature(**document),
        )

    def scratch(self, name: str) -> Path:
        """Return a path of this machine of that name that does not exist."""
        path = self._staging / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def remove_weights(self, version_id: str) -> bool:
        """Delete a version's files, keep its manifest and signature; return whether any was there."""
        shutil.rmtree(self._copies / folder_of(version_id), ignore_errors=True)
        kept = {self._key(version_id, name) for name in (MANIFEST, SIGNATURE)}
        files = [key for key in self._bucket.written(self._key(version_id, "")) if key not in kept]
        self._bucket.delete(files)
        return bool(files)

    def sweep(
        self, kept: Callable[[Sequence[str]], Collection[str]], *, older_than: float
    ) -> tuple[str, ...]:
        """Delete what was left behind; see the protocol. Copies on this machine of what is gone go as well."""
        stored = self._ages()
        for copy in self._copies.iterdir():
            if copy.name not in stored:
                shutil.rmtree(copy, ignore_errors=True)
        old = [f"sha256:{folder}" for folder, written in sorted(stored.items()) if written < older_than]
        staged = {
            f"{self._staging.name}/{path.name}": path
            for path in self._staging.iterdir()
            if path.exists() and path.stat().st_mtime < older_than
        }
        if not old and not staged:
            return ()
        staying = kept([*old, *staged])
        swept = []
        for version_id in old:
            folder = folder_of(version_id)
            if version_id in staying or self._ages(folder).get(folder, older_than) >= older_than:
                continue  # put again meanwhile, or swept by another
            manifest = self._key(version_id, MANIFEST)
            keys = self._bucket.written(self._key(version_id, ""))
            self._bucket.delete([manifest, *(key for key in keys if key != manifest)])  # out of sight first
            shutil.rmtree(self._copies / folder, ignore_errors=True)
            swept.append(version_id)
        for name, path in staged.items():
            if name not in staying:
                shutil.rmtree(path, ignore_errors=True)
        return tuple(swept)

    def _ages(self, folder: str = "") -> dict[str, float]:
        """Return when each stored version was last written to, by the name of its folder."""
        ages: dict[str, float] = {}
        for key, written in self._bucket.written(f"{_VERSIONS}/{folder}").items():
            name = key.split("/")[1]
            ages[name] = max(written, ages.get(name, 0.0))
        return ages

    def _has(self, version_id: str) -> bool:
        return self._key(version_id, MANIFEST) in self._bucket.written(self._key(version_id, MANIFEST))

    def _take_up(self, version_id: str) -> None:
        """Check what is stored and write its manifest again: a sweep must not take it for what was left behind."""
        self.open(version_id)
        self._bucket.write(self._key(version_id, MANIFEST), self.manifest(version_id).to_bytes())

    def _fetch(self, manifest: AdapterManifest, copy: Path) -> None:
        stage = self._staging / uuid.uuid4().hex
        stage.mkdir()
        try:
            for entry in manifest.files:
                try:
                    data = self._bucket.read(self._key(manifest.version_id(), entry.path))
                except FileNotFoundError as error:
                    raise weights_gone(manifest.version_id()) from error
                check_bytes(data, entry)
                (stage / entry.path).write_bytes(data)
            if _is_whole(copy, manifest):
                return  # another process of this machine was faster, and may be reading it
            shutil.rmtree(copy, ignore_errors=True)
            try:
                stage.rename(copy)
            except OSError:
                if not _is_whole(copy, manifest):
                    raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _key(self, version_id: str, name: str) -> str:
        return f"{_VERSIONS}/{folder_of(version_id)}/{name}"


def _is_whole(copy: Path, manifest: AdapterManifest) -> bool:
    try:
        for entry in manifest.files:
            check_bytes((copy / entry.path).read_bytes(), entry)
    except (OSError, ArtifactCorruptError):
        return False
    return True


class ObjectCandidates:
    """``CandidateStore`` in a bucket: the notes are created once, and name the files that count by their digests."""

    def __init__(self, bucket: Bucket, local: Path) -> None:
        self._bucket = bucket
        self._local = local

    def find(self, reservation_id: str) -> Kept | None:
        """Return what is stored for a reservation; raises as the protocol says."""
        place = self._place(reservation_id)
        try:
            document = json.loads(self._bucket.read(f"{place}/{_NOTES}"))
        except FileNotFoundError:
            return None
        adapter = self._local / reservation_id
        shutil.rmtree(adapter, ignore_errors=True)
        adapter.mkdir(parents=True)
        for name, digest in document["files"].items():
            require_name(name)
            try:
                data = self._bucket.read(f"{place}/{digest}-{name}")
            except FileNotFoundError:
                data = b""
            if sha256(data).hexdigest() != digest:
                raise ArtifactCorruptError(
                    "the stored result of a reservation was changed; it cannot be published, and is not made again"
                )
            (adapter / name).write_bytes(data)
        return Kept(adapter=adapter, notes=document["notes"].encode())

    def keep(self, reservation_id: str, adapter: Path, notes: bytes) -> Kept:
        """Store a result unless the reservation has one; raises as the protocol says."""
        place, files = self._place(reservation_id), {}
        kept = self.find(reservation_id)
        if kept is not None:
            return kept
        for path in sorted(adapter.iterdir()):
            require_name(path.name)
            data = path.read_bytes()
            files[path.name] = sha256(data).hexdigest()
            self._bucket.create(f"{place}/{files[path.name]}-{path.name}", data)
        document = json.dumps({"notes": notes.decode(), "files": files}, sort_keys=True)
        self._bucket.create(f"{place}/{_NOTES}", document.encode())  # another's, if it was faster, is the one
        kept = self.find(reservation_id)
        if kept is None:
            raise ArtifactCorruptError("the stored result of a reservation is gone; it is not made again")
        return kept

    def forget(self, reservation_id: str) -> None:
        """Delete the result of a reservation whose round is closed."""
        self._bucket.delete(list(self._bucket.written(f"{self._place(reservation_id)}/")))
        shutil.rmtree(self._local / reservation_id, ignore_errors=True)

    def sweep(self, *, older_than: float) -> None:
        """Delete what was stored before a moment and left behind by a crash."""
        written = self._bucket.written(f"{_CANDIDATES}/")
        newest: dict[str, float] = {}
        for key, at in written.items():
            name = key.split("/")[1]
            newest[name] = max(at, newest.get(name, 0.0))
        self._bucket.delete([key for key in written if newest[key.split("/")[1]] < older_than])

    def _place(self, reservation_id: str) -> str:
        require_reservation(reservation_id)
        return f"{_CANDIDATES}/{reservation_id}"
