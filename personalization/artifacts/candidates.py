"""What a reservation's training gave, stored write-once under the reservation before it is judged or published.

One reservation pays for one noise key, so for one sum x + z. A run that is repeated on another machine could give
x' + z with the same noise, and the difference of the two has almost none. So the first result that is stored is the
only one there ever is: a repeat finds it and is not trained again, and a second writer gets the first one back.

    <root>/candidates/<reservation>/notes.json     what the run reported, and the digest of every file
    <root>/candidates/<reservation>/adapter/…      the files
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from personalization.artifacts.files import told_as_away
from personalization.errors import ArtifactCorruptError, ArtifactFormatError

if TYPE_CHECKING:
    from pathlib import Path

NOTES: Final = "notes.json"
ADAPTER: Final = "adapter"
_RESERVATION: Final = re.compile(r"^[A-Za-z0-9-]{1,64}$")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A stored result: its files, and what the run reported of it."""

    adapter: Path
    notes: bytes


class Candidates:
    """Results by reservation under an artifact store's root; safe for several writers on one file system."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "candidates"
        self._folder.mkdir(parents=True, exist_ok=True)

    def find(self, reservation_id: str) -> Kept | None:
        """Return what is stored for a reservation, every file checked against its digest.

        Raises:
            ArtifactCorruptError: a file differs from what was stored, or is gone.
        """
        place = self._place(reservation_id)
        try:
            document = json.loads((place / NOTES).read_bytes())
        except FileNotFoundError:
            return None
        adapter = place / ADAPTER
        if document["files"] != _digests(adapter):
            raise ArtifactCorruptError(
                "the stored result of a reservation was changed; it cannot be published, and is not made again"
            )
        return Kept(adapter=adapter, notes=document["notes"].encode())

    def keep(self, reservation_id: str, adapter: Path, notes: bytes) -> Kept:
        """Store a result unless the reservation has one, and return the one it has.

        Raises:
            ArtifactCorruptError: the stored one was changed.
            ArtifactStoreAwayError: the disk is full or refuses; nothing is visible then.
        """
        with told_as_away(self._folder):
            return self._keep(reservation_id, adapter, notes)

    def _keep(self, reservation_id: str, adapter: Path, notes: bytes) -> Kept:
        kept = self.find(reservation_id)
        if kept is not None:
            return kept
        stage = self._folder / f"{uuid.uuid4().hex}.part"
        try:
            shutil.copytree(adapter, stage / ADAPTER)
            document = {"notes": notes.decode(), "files": _digests(stage / ADAPTER)}
            (stage / NOTES).write_text(json.dumps(document, sort_keys=True), encoding="utf-8")
            for path in [*(stage / ADAPTER).iterdir(), stage / NOTES, stage / ADAPTER, stage]:
                _sync(path)
            try:
                stage.rename(self._place(reservation_id))
            except OSError:
                if not self._place(reservation_id).exists():
                    raise  # else another writer was faster: its result is the one
            _sync(self._folder)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        kept = self.find(reservation_id)
        if kept is None:  # whoever took the round over has published it and forgotten the result
            raise ArtifactCorruptError("the stored result of a reservation is gone; it is not made again")
        return kept

    def forget(self, reservation_id: str) -> None:
        """Delete the result of a reservation whose round is closed: nothing is repeated for it any more."""
        shutil.rmtree(self._place(reservation_id), ignore_errors=True)

    def sweep(self, *, older_than: float) -> None:
        """Delete what was stored before a moment (unix seconds) and left behind by a crash."""
        for path in self._folder.iterdir():
            try:
                old = path.stat().st_mtime < older_than
            except FileNotFoundError:
                continue
            if old:
                shutil.rmtree(path, ignore_errors=True)

    def _place(self, reservation_id: str) -> Path:
        require_reservation(reservation_id)
        return self._folder / reservation_id


def require_reservation(reservation_id: str) -> None:
    """Refuse what cannot name a result.

    Raises:
        ArtifactFormatError: it is not 1 to 64 letters, digits and dashes.
    """
    if not _RESERVATION.match(reservation_id):
        raise ArtifactFormatError("a reservation's id is 1 to 64 letters, digits and dashes")


def _digests(folder: Path) -> dict[str, str]:
    try:
        return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    except FileNotFoundError:
        return {}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
