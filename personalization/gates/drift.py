"""Drift of a line: how far it moved between two released adapters, against what their noise alone explains.

Only released adapters and public numbers are read, so it is free: nothing private is read for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from personalization.adapters.factors import difference, norm, require_same_subspace, split_factors
from personalization.adapters.manifest import GateCheck

if TYPE_CHECKING:
    from pathlib import Path

    from personalization.adapters.manifest import AdapterManifest

DRIFT_CHECK = "drift"
NOISE_CHECK = "noise_norm"
# With 100 trained numbers or more, noise alone stays below it but once in many thousand releases.
DRIFT_RATIO = 1.5


@dataclass(frozen=True, kw_only=True)
class Movement:
    """How a line moved from one released version to a later one; a function of released weights alone.

    Attributes:
        distance: L2 norm of the difference, in the units of the ``B`` factors.
        cosine: between the two adapters, -1 to 1; 0 where one of them is zero.
        retained: how much of the earlier adapter is left in the later one: its projection ÷ its length.
        noise: expected distance if nothing but the noise had changed; None where it is not known.
    """

    distance: float
    cosine: float
    retained: float
    noise: float | None = None

    @property
    def ratio(self) -> float | None:
        """The distance in units of what noise alone explains."""
        return None if not self.noise else self.distance / self.noise

    @property
    def drifted(self) -> bool | None:
        """Whether the line moved by more than noise explains; None where that is not known."""
        return None if self.ratio is None else self.ratio > DRIFT_RATIO

    def checks(self) -> tuple[GateCheck, ...]:
        """Return it as facts of an evaluation; they inform and never refuse."""
        if self.drifted is None:
            detail = "distance to the version before; the noise of one of the two is not known"
        else:
            detail = "moved by more than noise explains" if self.drifted else "within what noise explains"
        return (
            GateCheck(
                name=DRIFT_CHECK,
                passed=True,
                value=self.distance if self.ratio is None else self.ratio,
                threshold=None if self.ratio is None else DRIFT_RATIO,
                detail=detail,
            ),
            GateCheck(name="cosine", passed=True, value=self.cosine, detail="to the version before"),
            GateCheck(
                name="retained",
                passed=True,
                value=self.retained,
                detail="share of the version before that is left",
            ),
        )


def movement(earlier: Path, later: Path, *, noise: float | None = None) -> Movement:
    """Return how far a line moved between two released versions.

    Args:
        earlier: a released adapter of the line.
        later: a later one.
        noise: L2 norm of the difference that noise alone would make.

    Raises:
        MetaStartError: the versions share no frozen subspace.
    """
    (down, before), (other, after) = split_factors(earlier), split_factors(later)
    require_same_subspace(down, other)
    lengths = norm(before), norm(after)
    product = sum(float(np.sum(values * after[name])) for name, values in before.items())
    return Movement(
        distance=norm(difference(after, before)),
        cosine=product / (lengths[0] * lengths[1]) if all(lengths) else 0.0,
        retained=product / lengths[0] ** 2 if lengths[0] else 0.0,
        noise=noise,
    )


def noise_between(earlier: float | None, later: float | None, *, from_earlier: bool) -> float | None:
    """Return the expected distance of two releases whose signal is the same.

    Args:
        earlier: length of the earlier release's noise, as its training for nobody showed it.
        later: the same of the later release.
        from_earlier: the later one was trained from the earlier one, so that it carries the same earlier noise.
    """
    if later is None or (earlier is None and not from_earlier):
        return None
    return later if from_earlier or earlier is None else math.hypot(earlier, later)


def noise_check(length: float) -> GateCheck:
    """Return the length of a release's own noise as a fact of its evaluation: later releases are compared with it."""
    return GateCheck(
        name=NOISE_CHECK,
        passed=True,
        value=length,
        detail="length of what the same plan releases for nobody",
    )


def noise_of(manifest: AdapterManifest) -> float | None:
    """Return the length of a version's own noise as it was measured when it was trained."""
    return next((one.value for one in manifest.evaluation.checks if one.name == NOISE_CHECK), None)


def drift_document(manifest: AdapterManifest) -> dict[str, object] | None:
    """Return a version's movement since the version before as JSON-ready facts; None where it was not measured."""
    found = {one.name: one for one in manifest.evaluation.checks}
    drift = found.get(DRIFT_CHECK)
    if drift is None:
        return None
    known = drift.threshold is not None
    return {
        "against": manifest.lineage.supersedes,
        "ratio_to_noise": drift.value if known else None,
        "distance": None if known else drift.value,
        "limit": drift.threshold,
        "drifted": bool(known and drift.value is not None and drift.value > (drift.threshold or 0.0)),
        "cosine": found["cosine"].value,
        "retained": found["retained"].value,
        "detail": drift.detail,
    }
