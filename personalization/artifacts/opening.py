"""Open the artifact store that an address names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from personalization.artifacts.directory import DirectoryArtifactStore
from personalization.artifacts.objects import ObjectArtifactStore

if TYPE_CHECKING:
    from personalization.artifacts.store import ArtifactStore

SCHEME = "s3://"


def open_store(address: str, local: Path) -> ArtifactStore:
    """Return the store at ``address``: a directory, or ``s3://bucket/prefix``.

    Args:
        address: where the versions lie; shared by all trainers.
        local: directory of this machine for copies of what is stored elsewhere.

    Raises:
        ArtifactStoreAwayError: the package for it is not installed.
    """
    if not address.startswith(SCHEME):
        return DirectoryArtifactStore(Path(address))
    from personalization.artifacts.bucket import Bucket  # noqa: PLC0415  # an extra

    return ObjectArtifactStore(Bucket(address), local)
