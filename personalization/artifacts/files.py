"""What every artifact store holds of a version, and how its bytes are checked."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from personalization.adapters.manifest import AdapterManifest, ArtifactFile
from personalization.errors import (
    ArtifactCorruptError,
    ArtifactFormatError,
    ArtifactNotFoundError,
    ArtifactStoreAwayError,
    ManifestError,
)
from privacy.canonical import sha256_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
MEDIA_TYPES: Final = {".safetensors": "application/vnd.safetensors", ".json": "application/json"}
_NAME: Final = re.compile(r"^[a-z0-9_]{1,64}\.(safetensors|json)$")
_NOT_STORED: Final = "{!r} cannot be part of an adapter; only .safetensors and .json files are stored"
_DIGEST: Final = re.compile(r"^sha256:[0-9a-f]{64}$")
_AWAY: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
     errno.EHOSTDOWN, errno.EACCES, errno.EPERM}
)  # fmt: skip


def describe_files(paths: Iterable[Path]) -> tuple[ArtifactFile, ...]:
    """Return name, media type, size and digest of each file, in the order of their names.

    Raises:
        ArtifactFormatError: a name is not a plain ``*.safetensors`` or ``*.json``, or is one the store writes.
    """
    described = []
    for path in sorted(paths):
        if not path.is_file():
            raise ArtifactFormatError(_NOT_STORED.format(path.name))
        require_name(path.name)
        described.append(
            ArtifactFile(
                path=path.name,
                media_type=MEDIA_TYPES[path.suffix],
                size=path.stat().st_size,
                sha256=_hash_file(path),
            )
        )
    return tuple(described)


def require_name(name: str) -> None:
    """Refuse a file name that no store holds.

    Raises:
        ArtifactFormatError: it is not a plain ``*.safetensors`` or ``*.json``, or is one the store writes.
    """
    if not _NAME.match(name) or name in {MANIFEST, SIGNATURE}:
        raise ArtifactFormatError(_NOT_STORED.format(name))


def folder_of(version_id: str) -> str:
    """Return the name of a version's folder: the 64 hex digits of its digest.

    Raises:
        ArtifactNotFoundError: it is no version id.
    """
    if not _DIGEST.match(version_id):
        raise ArtifactNotFoundError("a version id is sha256: and 64 hex digits; copy it from the registry")
    return version_id.removeprefix("sha256:")


def check_bytes(data: bytes, entry: ArtifactFile) -> None:
    """Refuse bytes that are not those of the manifest's entry.

    Raises:
        ArtifactCorruptError: any byte differs.
    """
    if len(data) != entry.size or sha256(data).hexdigest() != entry.sha256:
        raise ArtifactCorruptError(f"the bytes of {entry.path} do not match the manifest; nothing was loaded")


def manifest_of(data: bytes, version_id: str) -> AdapterManifest:
    """Read a stored manifest.

    Raises:
        ArtifactCorruptError: the bytes do not match the digest they are stored under.
    """
    if sha256_digest(data) != version_id:
        raise ArtifactCorruptError(
            f"the manifest of {version_id} does not match its digest; restore the store"
        )
    try:
        return AdapterManifest.from_bytes(data)
    except ManifestError as error:
        raise ArtifactCorruptError(
            f"the manifest of {version_id} cannot be read; restore the store"
        ) from error


def weights_gone(version_id: str) -> ArtifactNotFoundError:
    """Return the error of a version of which only the manifest is left."""
    return ArtifactNotFoundError(f"the weights of {version_id} were removed; only its manifest is kept")


@contextmanager
def told_as_away(root: Path) -> Iterator[None]:
    """Tell a file system that is full, read-only or gone apart from files that are wrong.

    Raises:
        ArtifactStoreAwayError: trying again later may succeed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _AWAY and root.is_dir():
            raise
        what = "is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "does not take files"
        raise ArtifactStoreAwayError(
            f"the artifact store {what} ({errno.errorcode.get(error.errno or 0, 'OSError')}); nothing was lost"
        ) from error


def _hash_file(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
