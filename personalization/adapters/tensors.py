"""Read safetensors files with the standard library and NumPy, so that the parent process needs no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from personalization.errors import ArtifactFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADER_LIMIT_BYTES = 16 << 20
_METADATA = "__metadata__"
_DTYPES: dict[str, tuple[str, int]] = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a file, its values as float32."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    raw: bytes
    values: NDArray[np.float32]


def read_tensors(path: Path) -> tuple[StoredTensor, ...]:
    """Return every tensor of a safetensors file, by name.

    Raises:
        ArtifactFormatError: not a safetensors file, a data type that no server casts, or lengths that do not fit.
    """
    data = path.read_bytes()
    header, begin = _header(path.name, data)
    header.pop(_METADATA, None)
    body = memoryview(data)[begin:]
    try:
        return tuple(_tensor(name, entry, body) for name, entry in sorted(header.items()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactFormatError(
            f"{path.name} is not a readable safetensors file; nothing was loaded"
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts that a safetensors file holds beside its tensors.

    Raises:
        ArtifactFormatError: not a safetensors file, or they are no texts.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        header, _ = _header(path.name, start + file.read(min(length, HEADER_LIMIT_BYTES)))
    found = header.get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ArtifactFormatError(f"{path.name} is not a readable safetensors file; nothing was loaded")
    return found


def _header(name: str, data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a file's bytes and where the tensors begin."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(HEADER_LIMIT_BYTES, len(data) - 8):
        raise ArtifactFormatError(f"{name} is not a safetensors file; nothing was loaded")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise ArtifactFormatError(f"{name} is not a readable safetensors file; nothing was loaded") from error
    if not isinstance(header, dict):
        raise ArtifactFormatError(f"{name} is not a readable safetensors file; nothing was loaded")
    return header, 8 + length


def tensor_digest(tensors: tuple[StoredTensor, ...]) -> str:
    """Return the digest over names, data types, shapes and bytes; independent of how the file frames them."""
    digest = hashlib.sha256()
    for tensor in tensors:
        head = json.dumps([tensor.name, tensor.dtype, list(tensor.shape)], separators=(",", ":")).encode()
        digest.update(len(head).to_bytes(8, "big") + head)
        digest.update(len(tensor.raw).to_bytes(8, "big") + tensor.raw)
    return "sha256:" + digest.hexdigest()


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> StoredTensor:
    kind, width = _DTYPES[entry["dtype"]]
    begin, end = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    raw = bytes(body[begin:end])
    if not 0 <= begin <= end <= len(body) or len(raw) != width * int(np.prod(shape, dtype=np.int64)):
        raise ValueError("tensor bounds")
    array = np.frombuffer(raw, dtype=kind)
    if entry["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return StoredTensor(
        name=name, dtype=entry["dtype"], shape=shape, raw=raw, values=array.astype(np.float32).reshape(shape)
    )
