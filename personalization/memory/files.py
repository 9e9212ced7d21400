"""Read files as documents: a file is one, named by its path without the ending."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from personalization.errors import MemoryDocumentError
from personalization.memory.chunking import first_heading
from personalization.memory.values import Draft

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

ENDINGS: Final = (".md", ".txt")  # of a folder's files that are read
STANDARD_INPUT: Final = "-"


def drafts_of(
    paths: Sequence[Path],
    *,
    document_id: str | None = None,
    title: str | None = None,
    source: str | None = None,
    until: datetime | None = None,
    accept_marked: bool = False,
) -> list[Draft]:
    """Return each file, and each text file below a folder, as a document.

    Args:
        paths: files, folders, or ``-`` for standard input.
        document_id: of the one document; by default its path.
        title: of the one document; by default its first heading, else its name.
        source: where they come from; by default each one's path.
        until: when they end.
        accept_marked: see ``Draft``.

    Raises:
        MemoryDocumentError: a file is no text, a folder has none, or a name or title is given for several.
    """
    files = list(_files(paths))
    if len(files) != 1 and (document_id is not None or title is not None):
        raise MemoryDocumentError(
            f"--id and --title name one document, and {len(files)} are given; leave them out"
        )
    return [
        Draft(
            document_id=document_id or "-".join(name.split()),
            title=title if title is not None else first_heading(text) or Path(name).name.replace("-", " "),
            text=text,
            source=source or origin,
            valid_until=until,
            accept_marked=accept_marked,
        )
        for name, text, origin in files
    ]


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield name, text and source of each document."""
    for path in paths:
        if str(path) == STANDARD_INPUT:
            yield "note", sys.stdin.read(), "standard input"
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix in ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise MemoryDocumentError(
                f"{path} has no files that end in {' or '.join(ENDINGS)}; name files themselves"
            )
        for file in inside:
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise MemoryDocumentError(f"{file} is no text in UTF-8; convert it to text first") from error
            yield name.with_suffix("").as_posix(), text, name.as_posix()
