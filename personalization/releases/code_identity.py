"""A digest of everything, besides data and seed, that shapes the output of a training run.

A retry is free only when it repeats the same sample. So the plan, the base model, the start adapter, our own code
and data files that shape a release, the versions of the libraries that compute, the device and the kind of products
all enter; a change of any makes a retry a mismatch, which the ledger refuses. The device enters as it was asked for:
what ``auto`` stands for is known in the training child alone, after the draw is recorded.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import personalization
from privacy.canonical import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from personalization.planning.plan import PerformanceFlags, TrainingPlan

# What shapes a release: each name is a module, or a package of which every file counts, in sub-folders too.
RELEASE_CODE = (
    "personalization.training",
    "personalization.planning",
    "personalization.adapters.factors",
    "personalization.adapters.files",
    "personalization.adapters.tensors",
    "personalization.starts.averaging",
    "personalization.starts.recipe",
    "privacy.mechanisms.sampled_gaussian",
    "privacy.noise",
)
_LIBRARIES = ("torch", "transformers", "peft", "opacus", "numpy")


def code_digest(
    plan: TrainingPlan, flags: PerformanceFlags, *, base_digest: str, start_version_id: str | None
) -> str:
    """Return the ``sha256:`` digest of plan, base, start, our own code, libraries and the device that was asked for."""
    return digest_of(
        {
            "plan": plan.digest(),
            "base": base_digest,
            "start": start_version_id,
            "source": _own_source(),
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            "device": flags.device,
            "half_head": flags.half_head,
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
