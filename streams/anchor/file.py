"""The anchor in files of one machine, beside the database, where the broker forgets everything when it ends.

A file helps against a database file that is put back, and not against a machine that is: whoever copies the whole
folder copies the anchor with it. Leave the two files out of backups.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TextIO

from privacy.errors import AnchorUnavailableError
from streams.contracts.codec import Record
from streams.contracts.topics import ANCHOR, ERASED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FORMAT = "discreet-anchor"


class FileAnchor:
    """One JSON file of the last record of each key, and one of lines, which only grows, of erasures.

    Writers of one database come one after the other, since each holds its write lock meanwhile.

    Args:
        path: of the first file; the other has ``.erased`` behind its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._register = path.with_name(f"{path.name}.erased")
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> Sequence[Record]:
        """Return every record when the file was replaced since the last call, else nothing."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return []
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return []
        records = list(self._stored().values())
        self._seen = seen
        return records

    def write(self, records: Sequence[Record]) -> None:
        """Put a new file in the place of the old one, and add to the register."""
        anchored = [record for record in records if record.topic == ANCHOR.name]
        erased = [record for record in records if record.topic == ERASED.name]
        try:
            if erased:
                with self._register.open("a+", encoding="utf-8") as file:
                    _drop_half_a_line(file)
                    file.writelines(f"{json.dumps(_document(record))}\n" for record in erased)
                    _to_disk(file.fileno(), file.flush)
            if anchored:
                stored = {**self._stored(), **{record.key: record for record in anchored}}
                staged = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
                with staged.open("w", encoding="utf-8") as file:
                    document = {"format": FORMAT, "records": [_document(one) for one in stored.values()]}
                    json.dump(document, file)
                    _to_disk(file.fileno(), file.flush)
                staged.replace(self._path)
        except OSError as error:
            raise AnchorUnavailableError(
                f"the anchor {self._path.name} cannot be written ({type(error).__name__}); make room or correct the "
                "rights of its folder"
            ) from error

    def erased(self) -> Iterable[Record]:
        """Return every line of the register; a last one that a crash cut off was confirmed to nobody."""
        try:
            lines = self._register.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                found.append(_record(ERASED.name, json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):
                    break
                raise AnchorUnavailableError(
                    f"line {number} of {self._register.name} cannot be read; put the file back as it was"
                ) from error
        return found

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _stored(self) -> dict[bytes, Record]:
        try:
            document = json.loads(self._path.read_text("utf-8"))
            records = [
                _record(ANCHOR.name, one) for one in document["records"] if document["format"] == FORMAT
            ]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise AnchorUnavailableError(
                f"the anchor {self._path.name} cannot be read; put the file back as it was"
            ) from error
        return {record.key: record for record in records}


def _document(record: Record) -> dict[str, Any]:
    return {
        "key": record.key.decode(),
        "value": (record.value or b"").decode(),
        "headers": {name: value.decode() for name, value in record.headers},
    }


def _record(topic: str, document: dict[str, Any]) -> Record:
    headers = [(name, text.encode()) for name, text in document["headers"].items()]
    return Record(topic, document["key"].encode(), document["value"].encode(), headers)


def _drop_half_a_line(file: TextIO) -> None:
    """Cut off what a crash left behind the last whole line; nobody was told that it is kept."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.truncate(len(whole.encode()))
    file.seek(0, os.SEEK_END)


def _to_disk(number: int, flush: Any) -> None:
    flush()
    os.fsync(number)
