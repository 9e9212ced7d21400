"""Adapter directories on a server's disk: fetched, checked against the signed manifest, visible all at once.

``<root>/adapters/<served name>/`` is what a server loads or watches. A version is staged under
``<root>/staging``, every byte is checked, files and folder are synced, and one rename makes it visible. Only
safetensors and JSON are taken, so nothing in an artifact can run.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..contracts.manifest import AdapterVersionV1, ArtifactFileV1, BaseFingerprintV1
from .errors import AdapterRefusedError, ArtifactFetchError, DigestMismatchError, UnsafeArtifactError
from .signatures import TrustedKeys

Fetcher = Callable[[str, int], bytes]
"""Reads at most the given number of bytes from a URI; raises ``OSError`` or ``HTTPException`` when it cannot."""

MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
DEFAULT_MAX_BYTES = 1 << 30
FETCH_SECONDS = 60.0


def fetch_file(uri: str, limit_bytes: int) -> bytes:
    """Read from a ``file://`` URI."""
    path = urllib.request.url2pathname(urllib.parse.urlsplit(uri).path)
    with Path(path).open("rb") as file:
        return file.read(limit_bytes)


def fetch_http(uri: str, limit_bytes: int) -> bytes:
    """Read from an ``http://`` or ``https://`` URI."""
    with urllib.request.urlopen(uri, timeout=FETCH_SECONDS) as answer:  # noqa: S310  # chosen by its scheme
        announced = answer.length  # None where the server does not say
        content: bytes = answer.read(limit_bytes)
    if announced is not None and len(content) < min(limit_bytes, announced):
        raise http.client.IncompleteRead(content, announced - len(content))
    return content


class AdapterCache:
    """Verified adapter directories under one root.

    Args:
        root: directory of the cache; made if it does not exist.
        trusted_keys: raw Ed25519 public keys; a version signed by no one of them is refused.
        base: fingerprint of the base model that is served; a version for another one is refused. ``None``
            leaves that check to the caller.
        fetchers: further ways to read a URI, by scheme, for example ``{"s3": read_from_s3}``.
        max_bytes: largest artifact.
    """

    def __init__(
        self,
        root: Path,
        *,
        trusted_keys: Iterable[bytes],
        base: BaseFingerprintV1 | None = None,
        fetchers: Mapping[str, Fetcher] | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._adapters = root.resolve() / "adapters"
        self._staging = root.resolve() / "staging"
        self._adapters.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._staging, ignore_errors=True)  # what a crash left half done
        self._staging.mkdir()
        self._trusted = TrustedKeys(trusted_keys)
        self._base = base
        self._fetchers = {"file": fetch_file, "http": fetch_http, "https": fetch_http, **(fetchers or {})}
        self._max_bytes = max_bytes

    def path(self, served_name: str) -> Path:
        """Return where a version lies or would lie."""
        return self._adapters / served_name

    def held(self) -> list[str]:
        """Return the served names that are on disk."""
        return sorted(path.name for path in self._adapters.iterdir())

    def obtain(self, version: AdapterVersionV1) -> Path:
        """Return the directory of a version, checked; it is fetched unless it is there and intact.

        Raises:
            SignatureInvalidError: if no trusted key signed it.
            DigestMismatchError: if bytes differ from the manifest.
            UnsafeArtifactError: if it is too large or not a plain safetensors adapter.
            AdapterRefusedError: if it belongs to another base model.
            ArtifactFetchError: if its files cannot be read now.
        """
        self._trusted.check(version)
        self._check_shape(version)
        self._check_base(version)
        final = self.path(version.served_name)
        if self._is_intact(final, version):
            return final
        stage = self._staging / uuid.uuid4().hex
        stage.mkdir()
        try:
            for entry in version.manifest.files:
                _write_synced(stage / entry.path, self._fetch(version, entry))
            _check_safetensors(stage / WEIGHTS)
            _write_synced(stage / MANIFEST, version.manifest.canonical_bytes())
            _sync_directory(stage)
            if final.exists():  # damaged, or left by another line of versions: it goes first
                final.rename(self._staging / uuid.uuid4().hex)
            stage.rename(final)
            _sync_directory(self._adapters)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return final

    def remove(self, served_name: str) -> bool:
        """Take a version off the disk, out of sight first; return whether it was there."""
        path = self.path(served_name)
        if path.parent != self._adapters or not path.is_dir():
            return False
        gone = self._staging / uuid.uuid4().hex
        path.rename(gone)
        shutil.rmtree(gone)
        return True

    def _check_shape(self, version: AdapterVersionV1) -> None:
        files = version.manifest.files
        names = [entry.path for entry in files]
        if len(set(names)) != len(names) or MANIFEST in names:
            raise UnsafeArtifactError("the manifest lists a file twice; refuse the adapter")
        if WEIGHTS not in names or CONFIG not in names:
            raise UnsafeArtifactError(
                f"the artifact has no {WEIGHTS} or no {CONFIG}; it is not a plain adapter"
            )
        total = sum(entry.size for entry in files)
        if total > self._max_bytes:
            raise UnsafeArtifactError(
                f"the artifact has {total} bytes; at most {self._max_bytes} are allowed"
            )

    def _check_base(self, version: AdapterVersionV1) -> None:
        if self._base is None:
            return
        theirs = version.manifest.base
        for name in ("config_digest", "weights_digest", "tokenizer_digest"):
            if getattr(self._base, name) != getattr(theirs, name):
                raise AdapterRefusedError(f"the adapter fits another base model ({name} differs); refuse it")

    def _fetch(self, version: AdapterVersionV1, entry: ArtifactFileV1) -> bytes:
        scheme = urllib.parse.urlsplit(version.uri).scheme
        fetcher = self._fetchers.get(scheme)
        if fetcher is None:
            known = ", ".join(sorted(self._fetchers))
            raise ArtifactFetchError(f"an address with scheme {scheme!r} cannot be read; known are {known}")
        try:
            data = fetcher(f"{version.uri.rstrip('/')}/{entry.path}", entry.size + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ArtifactFetchError(f"{entry.path} of an adapter cannot be read; try again") from error
        _check(data, entry)
        return data

    def _is_intact(self, path: Path, version: AdapterVersionV1) -> bool:
        try:
            if (path / MANIFEST).read_bytes() != version.manifest.canonical_bytes():
                return False
            for entry in version.manifest.files:
                _check((path / entry.path).read_bytes(), entry)
        except (OSError, DigestMismatchError):
            return False
        return True


def _check(data: bytes, entry: ArtifactFileV1) -> None:
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DigestMismatchError(f"the bytes of {entry.path} do not match the manifest; nothing was loaded")


def _check_safetensors(path: Path) -> None:
    """Refuse a file that only claims to be safetensors: a length, then that many bytes of a JSON object."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UnsafeArtifactError(f"{path.name} is not in safetensors format; refuse the adapter")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise UnsafeArtifactError(
                f"{path.name} is not in safetensors format; refuse the adapter"
            ) from error
    if not isinstance(header, dict):
        raise UnsafeArtifactError(f"{path.name} is not in safetensors format; refuse the adapter")


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
