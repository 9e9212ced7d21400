"""How far a feed has come, kept between starts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import PositionError


@dataclass
class Position:
    """Where to go on reading, and what not to go back behind.

    Attributes:
        offsets: per partition the next offset to read.
        epochs: per adapter line the last epoch that was handled.
        saved_at: when it was saved, in unix seconds.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    saved_at: float = 0.0


class PositionStore(Protocol):
    """Keeps one position."""

    def load(self) -> Position:
        """Return what was saved, or an empty position."""

    def save(self, position: Position) -> None:
        """Replace what was saved."""


class FilePositions:
    """Keeps the position in one JSON file; a reader sees the old or the new one, never half of one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Position:
        """Read the file.

        Raises:
            PositionError: if it holds something else.
        """
        try:
            document = json.loads(self._path.read_bytes())
            return Position(
                offsets={int(partition): int(offset) for partition, offset in document["offsets"].items()},
                epochs={str(line): int(epoch) for line, epoch in document["epochs"].items()},
                saved_at=float(document["saved_at"]),
            )
        except FileNotFoundError:
            return Position()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PositionError(
                f"{self._path.name} holds no position; remove it to start from the full state"
            ) from error

    def save(self, position: Position) -> None:
        """Write a new file beside the old one, then put it in its place."""
        staged = self._path.with_suffix(f".{os.getpid()}.tmp")
        with staged.open("w", encoding="utf-8") as file:
            json.dump(asdict(position), file)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self._path)
