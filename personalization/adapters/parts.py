"""The two parts of a combined adapter: the private part of a line, and the public part made of a style card.

How strongly the public part acts in its upper layers may have been decided by a charged step of training, so it is made
of released values, and not of public ones alone.

Both stand in one portable file, on modules that do not overlap, with one rank and scaling. Which modules are private is
said in the file's safetensors metadata, which every loader skips; a file that says nothing has no public part. What
a line adds up over time (averages, blends, drift, starts) is its private part alone: a public part is made anew of each
card, in no shared subspace. A line that remembers averages those too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from personalization.adapters.files import WEIGHTS
from personalization.adapters.tensors import read_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PRIVATE: Final = "private"  # the metadata's entry: names of the private modules, with blanks between
# A public part is made only where the line trains these modules of the last block.
PRIVATE_MODULES: Final = ("gate_proj", "up_proj", "down_proj")


def private_entry(modules: Iterable[str]) -> dict[str, str]:
    """Return the metadata of a combined adapter whose private modules have these names."""
    return {PRIVATE: " ".join(sorted(modules))}


def private_names(directory: Path) -> frozenset[str] | None:
    """Return the names of an adapter's private modules; None where all are, because it has no public part.

    Raises:
        ArtifactFormatError: the weights are no safetensors file.
    """
    told = read_metadata(directory / WEIGHTS).get(PRIVATE)
    return None if told is None else frozenset(told.split())


def has_public_part(directory: Path) -> bool:
    """Say whether an adapter has a public part beside its private one.

    Raises:
        ArtifactFormatError: the weights are no safetensors file.
    """
    return private_names(directory) is not None


def settle_order(weights: Path) -> None:
    """Write a safetensors file's metadata anew in the order of its names, so that equal adapters are equal bytes.

    The library that writes these files keeps metadata in no order. Nothing else of the file changes, nor its length.
    """
    data = weights.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = "__metadata__"
    header[metadata] = dict(sorted(header[metadata].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    weights.write_bytes(data[:8] + text.ljust(end - 8) + data[end:])
