"""A content-addressed store of adapter directories on a file system.

One directory per version, named by the digest of its manifest: ``<root>/sha256/<64 hex>/`` holds the files
the manifest lists (safetensors and JSON only, nothing that can run), ``manifest.json`` and
``signature.json``. A directory is written in a staging place, each file and the directory are synced, then
one rename makes it visible; so a reader sees all of it or nothing. Every read checks every digest. Writing
the same version again changes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.adapters.manifest import AdapterManifest, AdapterVersion, Signature
from personalization.artifacts.candidates import Candidates
from personalization.artifacts.files import (
    MANIFEST,
    SIGNATURE,
    check_bytes,
    folder_of,
    manifest_of,
    require_name,
    told_as_away,
    weights_gone,
)
from personalization.errors import ArtifactNotFoundError
from privacy.canonical import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

READY_BYTES = 1 << 20  # more than an adapter of the portable profile's own rank on one block


class DirectoryArtifactStore:
    """Adapter directories under one root; safe for several writers on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._staging = self.root / "staging"
        self._blobs = self.root / "sha256"
        self._staging.mkdir(parents=True, exist_ok=True)
        self._blobs.mkdir(exist_ok=True)
        self.candidates = Candidates(self.root)

    def ready(self) -> None:
        """Write and delete as much as an adapter takes; raises as the protocol says."""
        place = self._staging / uuid.uuid4().hex
        with told_as_away(self.root):
            try:
                _write_synced(place, bytes(READY_BYTES))
            finally:
                place.unlink(missing_ok=True)

    def uri(self, version_id: str) -> str:
        """Return the ``file://`` address of a version, whether or not it is stored."""
        return self._path(version_id).as_uri()

    def put(self, manifest: AdapterManifest, signature: Signature, source: Path) -> str:
        """Store the manifest's files from directory ``source``; return the version's address.

        Raises:
            ArtifactCorruptError: a file in ``source`` does not match the manifest, or other bytes already stand
                under this version's digest.
            ArtifactFormatError: the manifest lists a file that may not be stored.
            ArtifactStoreAwayError: the disk is full or refuses; nothing is visible then.
        """
        with told_as_away(self.root):
            return self._put(manifest, signature, source)

    def _put(self, manifest: AdapterManifest, signature: Signature, source: Path) -> str:
        version_id = manifest.version_id()
        final = self._path(version_id)
        if final.exists():
            os.utime(final)  # a sweep must not take it for what an earlier attempt left behind
            self.open(version_id)
            return final.as_uri()
        stage = self._staging / uuid.uuid4().hex
        stage.mkdir()
        try:
            for entry in manifest.files:
                require_name(entry.path)
                data = (source / entry.path).read_bytes()
                check_bytes(data, entry)
                _write_synced(stage / entry.path, data)
            _write_synced(stage / MANIFEST, manifest.to_bytes())
            _write_synced(stage / SIGNATURE, canonical_json(signature.to_document()))
            _sync_directory(stage)
            try:
                stage.rename(final)
            except OSError:
                if not final.exists():
                    raise
                self.open(version_id)  # another writer stored the same version in the meantime
            _sync_directory(self._blobs)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return final.as_uri()

    def open(self, version_id: str) -> Path:
        """Return the version's directory after checking every file against its digest.

        Raises:
            ArtifactNotFoundError: it was never stored, or its weights were removed.
            ArtifactCorruptError: any byte differs.
        """
        path = self._path(version_id)
        manifest = self.manifest(version_id)
        for entry in manifest.files:
            try:
                data = (path / entry.path).read_bytes()
            except FileNotFoundError as error:
                raise weights_gone(version_id) from error
            check_bytes(data, entry)
        return path

    def manifest(self, version_id: str) -> AdapterManifest:
        """Return the stored manifest, checked against its digest.

        Raises:
            ArtifactNotFoundError: no such version.
            ArtifactCorruptError: the bytes do not match the digest.
        """
        try:
            data = (self._path(version_id) / MANIFEST).read_bytes()
        except FileNotFoundError as error:
            raise ArtifactNotFoundError(f"no artifact {version_id} is stored; check the digest") from error
        return manifest_of(data, version_id)

    def load(self, version_id: str) -> AdapterVersion:
        """Return a stored version with its signature (not verified here: that needs a trusted key)."""
        manifest = self.manifest(version_id)
        document = json.loads((self._path(version_id) / SIGNATURE).read_bytes())
        return AdapterVersion(
            manifest=manifest,
            version_id=version_id,
            uri=self.uri(version_id),
            signature=Signature(**document),
        )

    def scratch(self, name: str) -> Path:
        """Return a path of that name that does not exist; ``sweep`` removes what is written there and left."""
        path = self._staging / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def remove_weights(self, version_id: str) -> bool:
        """Delete a version's files, keep its manifest and signature; return whether any was there."""
        path = self._path(version_id)
        try:
            files = [entry for entry in path.iterdir() if entry.name not in {MANIFEST, SIGNATURE}]
        except FileNotFoundError:
            return False
        for entry in files:
            entry.unlink(missing_ok=True)
        if files:
            _sync_directory(path)
        return bool(files)

    def sweep(
        self, kept: Callable[[Sequence[str]], Collection[str]], *, older_than: float
    ) -> tuple[str, ...]:
        """Delete what was left behind: stored versions that no registry row names, and staged files; return the ids.

        Args:
            kept: says which of these names (version ids, and paths under the root of what is staged) must stay. It
                is asked after the store was looked through, so a publication that ends meanwhile keeps its files.
            older_than: unix seconds; younger directories may belong to a transaction that is still open.
        """
        old = [one for one in self._stored() if _is_older(self._path(one), older_than)]
        staged = {
            path.relative_to(self.root).as_posix(): path
            for path in self._staging.iterdir()
            if _is_older(path, older_than)
        }
        if not old and not staged:
            return ()
        staying = kept([*old, *staged])
        swept = []
        for version_id in old:
            path = self._path(version_id)
            if version_id in staying or not _is_older(path, older_than):
                continue
            gone = self._staging / uuid.uuid4().hex
            try:
                path.rename(gone)  # at once, so that no reader ever sees a part of it
            except FileNotFoundError:  # another sweep was faster
                continue
            shutil.rmtree(gone, ignore_errors=True)
            swept.append(version_id)
        for name, path in staged.items():
            if name not in staying:
                shutil.rmtree(path, ignore_errors=True)
        return tuple(swept)

    def _stored(self) -> Iterator[str]:
        for path in sorted(self._blobs.iterdir()):
            yield f"sha256:{path.name}"

    def _path(self, version_id: str) -> Path:
        return self._blobs / folder_of(version_id)


def _is_older(path: Path, moment: float) -> bool:
    """Say whether a directory that is still there was last written before ``moment`` (unix seconds)."""
    try:
        return path.stat().st_mtime < moment
    except FileNotFoundError:
        return False


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
