"""A digest of everything, besides data and seed, that shapes the output of a training run.

A retry is free only when it repeats the same sample. So the plan, the base model, the versions it starts from and is
blended with, our own code, the versions of the libraries that compute, every performance flag, and the machine that
computes all enter; a change of any makes a retry a mismatch, which the ledger refuses.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Final

from privacy.canonical import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

    from personalization.planning.plan import PerformanceFlags
    from personalization.releases.terms import Terms

_LIBRARIES: Final = ("torch", "transformers", "peft", "opacus", "numpy", "safetensors")
_SOURCES: Final = (
    "personalization.training",
    "personalization.adapters",
    "personalization.planning",
    "privacy.noise",
    "privacy.mechanisms",
)
_SUFFIXES: Final = (".py", ".json")  # public texts are data that shape the metric


def code_digest(
    terms: Terms, flags: PerformanceFlags, *, base_digest: str, start: str | None, hardware: str
) -> str:
    """Return the ``sha256:`` digest of all that shapes a run besides its data and its seed.

    Args:
        terms: what the round is frozen to.
        flags: of the run, its device resolved.
        base_digest: of the base model.
        start: the kind of start.
        hardware: what computes, as ``training.base.device`` names it.
    """
    return digest_of(
        {
            "plan": terms.plan.digest(),
            "base": base_digest,
            "start": [start, *terms.start_sources],
            "blend": [terms.blend_with, terms.blend_share],
            "source": _source_digest(),
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            "flags": asdict(flags),
            "hardware": hardware,
        }
    )


@lru_cache(maxsize=1)
def _source_digest() -> str:
    digest = hashlib.sha256()
    for package in _SOURCES:
        for name, entry in _files(resources.files(package), package):
            digest.update(name.encode() + b"\0" + entry.read_bytes() + b"\0")
    return digest.hexdigest()


def _files(folder: Traversable, name: str) -> Iterator[tuple[str, Traversable]]:
    """Yield every source file under a folder with its path, in a fixed order."""
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry, path)
        elif entry.name.endswith(_SUFFIXES):
            yield path, entry
