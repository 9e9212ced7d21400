"""A digest of everything, besides data and seed, that shapes the output of a training run.

A retry is free only when it repeats the same sample. So the plan, the base model, the versions it starts from and is
blended with, our own code and data files that shape a release, the versions of the libraries that compute, every
performance flag and the hardware all enter; a change of any makes a retry a mismatch, which the ledger refuses. What
``auto`` stands for is settled before the draw (``training.base.device``).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import personalization
from privacy.canonical import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from personalization.planning.plan import PerformanceFlags
    from personalization.releases.terms import Terms

# What shapes a release: each name is a module, or a package of which every file counts, in sub-folders too.
RELEASE_CODE = (
    "personalization.training",
    "personalization.planning",
    "personalization.canaries.values",
    "personalization.adapters.activation",
    "personalization.adapters.decoding",
    "personalization.adapters.factors",
    "personalization.adapters.files",
    "personalization.adapters.low_rank",
    "personalization.adapters.parts",
    "personalization.adapters.tensors",
    "personalization.styles",
    "personalization.memory.rendering",
    "personalization.memory.cleaning",
    "personalization.starts.averaging",
    "personalization.starts.recipe",
    "personalization.suites",
    "privacy.mechanisms",
    "privacy.noise",
)
_LIBRARIES = ("torch", "transformers", "peft", "opacus", "numpy", "safetensors")


def code_digest(
    terms: Terms, flags: PerformanceFlags, *, base_digest: str, start: str | None, hardware: str
) -> str:
    """Return the ``sha256:`` digest of all that shapes a run besides its data and its seed.

    Args:
        terms: what the round is frozen to.
        flags: of the run, its device resolved.
        base_digest: of the base model.
        start: the kind of start.
        hardware: what computes.
    """
    return digest_of(
        {
            "plan": terms.plan.digest(),
            "base": base_digest,
            "start": [start, *terms.start_sources],
            "blend": [terms.blend_with, terms.blend_share],
            **({"remembered": terms.remembered} if terms.remembered else {}),  # others keep their digest
            "notes": terms.notes,
            "source": _own_source(),
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            "flags": asdict(flags),
            "hardware": hardware,
        }
    )


def source_digest(root: Path) -> str:
    """Return a digest of names and bytes of every file that shapes a release.

    Args:
        root: the folder that holds our packages.

    Raises:
        FileNotFoundError: a name of ``RELEASE_CODE`` is neither a module nor a package there.
    """
    digest = hashlib.sha256()
    for path in release_files(root):
        data = path.read_bytes()
        name = path.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(4, "big") + name + len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def release_files(root: Path) -> list[Path]:
    """Return every file under ``root`` that shapes a release, sorted.

    Raises:
        FileNotFoundError: a name of ``RELEASE_CODE`` is neither a module nor a package there.
    """
    return sorted({path for name in RELEASE_CODE for path in _files_of(root, name)})


def _files_of(root: Path, name: str) -> Iterator[Path]:
    place = _place(root, name)
    if place.is_dir():
        yield from (one for one in place.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
        return
    module = place.with_suffix(".py")
    if not module.is_file():
        raise FileNotFoundError(f"{name} shapes releases, but there is no such module or package")
    yield module


def _place(root: Path, name: str) -> Path:
    return root.joinpath(*name.split("."))


@lru_cache(maxsize=1)
def _own_source() -> str:
    return source_digest(Path(personalization.__file__).resolve().parents[1])
