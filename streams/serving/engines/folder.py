"""A directory of adapters for engines that look there by themselves (vLLM's resolver, NIM); nothing of it is proved.

Each version lies under its served name and never changes. The engine is not asked, so a bridge reports such versions as
loaded and never as verified, and deletes one only a long while after nobody should ask for it any more.
"""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING

from streams.errors import EngineUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streams.client import Reading

_NAME = "a-*"


class FolderEngine:
    """One directory.

    Args:
        root: what the engine watches.
        capacity: most adapters in it.
    """

    kind = "directory"
    precision = ""
    tells = False
    mingles = False
    generation = 0

    def __init__(self, root: Path, *, capacity: int) -> None:
        self._root = root
        self.capacity = capacity
        root.mkdir(parents=True, exist_ok=True)

    def held(self) -> frozenset[str]:
        """Return the names that lie there."""
        try:
            return frozenset(path.name for path in self._root.glob(_NAME) if path.is_dir())
        except OSError as error:
            raise EngineUnreachableError(f"the directory cannot be read ({type(error).__name__})") from None

    def load(self, name: str, directory: Path) -> None:
        """Copy a version to its place; it appears whole."""
        stage = self._root / f".{uuid.uuid4().hex}"
        try:
            if _same(directory, self._root / name):
                return
            self.unload(name)
            shutil.copytree(directory, stage)
            stage.replace(self._root / name)
        except OSError as error:
            raise EngineUnreachableError(f"the directory takes no files ({type(error).__name__})") from None
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def unload(self, name: str) -> None:
        """Take a version out of its place, out of sight first."""
        gone = self._root / f".{uuid.uuid4().hex}"
        try:
            (self._root / name).replace(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

    def settle(self) -> None:
        """Do nothing."""

    def in_flight(self, name: str) -> int | None:  # noqa: ARG002  # nobody tells
        """Return None: nobody tells."""
        return None

    def next_log_probabilities(self, asked: Sequence[Reading], *, name: str | None) -> list[float]:  # noqa: ARG002
        """Refuse: a directory answers nothing."""
        raise EngineUnreachableError("a directory answers nothing")

    def close(self) -> None:
        """Do nothing."""


def _same(one: Path, other: Path) -> bool:
    files = [path.name for path in sorted(one.iterdir())]
    if not other.is_dir() or files != [path.name for path in sorted(other.iterdir())]:
        return False
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in files)
