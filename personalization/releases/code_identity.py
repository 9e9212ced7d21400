"""A digest of everything, besides data and seed, that shapes the output of a training run.

A retry is free only when it repeats the same sample. So the plan, the base model, the start adapter, our own
training code, the versions of the libraries that compute, and the kind of device all enter; a change of any
makes a retry a mismatch, which the ledger refuses.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata, resources
from typing import TYPE_CHECKING

from privacy.canonical import digest_of

if TYPE_CHECKING:
    from personalization.planning.plan import PerformanceFlags, TrainingPlan

_LIBRARIES = ("torch", "transformers", "peft", "opacus", "numpy")


def code_digest(
    plan: TrainingPlan, flags: PerformanceFlags, *, base_digest: str, start_version_id: str | None
) -> str:
    """Return the ``sha256:`` digest of plan, base, start, training code, libraries and device kind."""
    return digest_of(
        {
            "plan": plan.digest(),
            "base": base_digest,
            "start": start_version_id,
            "source": _source_digest(),
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            "device": flags.device,
        }
    )


@lru_cache(maxsize=1)
def _source_digest() -> str:
    digest = hashlib.sha256()
    for package in ("personalization.training", "privacy.noise"):
        for entry in sorted(resources.files(package).iterdir(), key=lambda item: item.name):
            if entry.name.endswith(".py"):
                digest.update(entry.name.encode() + b"\0" + entry.read_bytes() + b"\0")
    return digest.hexdigest()
