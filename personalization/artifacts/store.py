"""What keeps the files of adapter versions, whatever it is made of: one protocol, one suite of tests for all of them.

A version lies under the digest of its manifest, so its content never changes. It is there with its manifest, which is
written last and never over another; every read checks every digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from personalization.adapters.manifest import AdapterManifest, AdapterVersion, Signature


class Kept(Protocol):
    """A stored result of a reservation."""

    @property
    def adapter(self) -> Path:
        """Return a local directory with its files."""

    @property
    def notes(self) -> bytes:
        """Return what the run reported of it."""


class CandidateStore(Protocol):
    """Results by reservation, written once; see ``candidates``."""

    def find(self, reservation_id: str) -> Kept | None:
        """Return what is stored for a reservation, every file checked.

        Raises:
            ArtifactCorruptError: a file differs from what was stored, or is gone.
            ArtifactStoreAwayError: the store does not answer.
        """

    def keep(self, reservation_id: str, adapter: Path, notes: bytes) -> Kept:
        """Store a result unless the reservation has one, and return the one it has.

        Raises:
            ArtifactCorruptError: the stored one was changed.
            ArtifactStoreAwayError: the store is full or does not answer; nothing is visible then.
        """

    def forget(self, reservation_id: str) -> None:
        """Delete the result of a reservation whose round is closed."""

    def sweep(self, *, older_than: float) -> None:
        """Delete what was stored before a moment (unix seconds) and left behind by a crash."""


class ArtifactStore(Protocol):
    """Adapter versions by digest; safe for several writers."""

    @property
    def candidates(self) -> CandidateStore:
        """Return the place beside it for results that are not published yet."""

    def ready(self) -> None:
        """Write, read and delete a little, so that nobody spends budget on what could not be stored.

        Raises:
            ArtifactStoreAwayError: the store is full, refuses or does not answer.
        """

    def uri(self, version_id: str) -> str:
        """Return the address of a version, whether or not it is stored."""

    def put(self, manifest: AdapterManifest, signature: Signature, source: Path) -> str:
        """Store the manifest's files from directory ``source``; return the version's address.

        Raises:
            ArtifactCorruptError: a file in ``source`` does not match the manifest, or other bytes already stand
                under this version's digest.
            ArtifactFormatError: the manifest lists a file that may not be stored.
            ArtifactStoreAwayError: the store is full or does not answer; the version is not visible then.
        """

    def open(self, version_id: str) -> Path:
        """Return a local directory with the version's files after checking each against its digest.

        Raises:
            ArtifactNotFoundError: it was never stored, or its weights were removed.
            ArtifactCorruptError: any byte differs.
            ArtifactStoreAwayError: the store does not answer.
        """

    def manifest(self, version_id: str) -> AdapterManifest:
        """Return the stored manifest, checked against its digest; raises as ``open``."""

    def load(self, version_id: str) -> AdapterVersion:
        """Return a stored version with its signature (not verified here: that needs a trusted key)."""

    def scratch(self, name: str) -> Path:
        """Return a local path of that name that does not exist; ``sweep`` removes what is left there."""

    def remove_weights(self, version_id: str) -> bool:
        """Delete a version's files, keep its manifest and signature; return whether any was there."""

    def sweep(
        self, kept: Callable[[Sequence[str]], Collection[str]], *, older_than: float
    ) -> tuple[str, ...]:
        """Delete what was left behind: stored versions that no registry row names, and scratch files; return the ids.

        Args:
            kept: says which of these names (version ids, and names of what is scratch) must stay. It is asked after
                the store was looked through, so a publication that ends meanwhile keeps its files.
            older_than: unix seconds; younger ones may belong to a transaction that is still open.
        """
