"""What an audit is asked for and what it brings back: plain values, which training's jobs carry (no SciPy here).

A canary is a user that does not exist. In a *shadow* of a release (the plan's own mechanism, fresh noise, nobody's
data) each canary is present or absent by a fair coin, and whoever sees everything the mechanism releases says how
likely each is to be there. How well such guesses do bounds from below what the mechanism gives away
(``personalization.canaries.estimators``).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

CANARY_STEPS: Final = 1 << 21  # canaries × steps of an audit by default
FEWEST_CANARIES: Final = 4_096
MOST_CANARIES: Final = 32_768
GRADIENT_CANARIES: Final = 256  # each of these costs gradients of several users in every step


class AuditDepth(StrEnum):
    """How much of the trainer an audit runs through."""

    MECHANISM = "mechanism"  # coins, clipping, sums, noise and their composition over all steps
    GRADIENTS = "gradients"  # the whole fused run on public users, with the model's own gradients


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What to audit beside a release; public numbers alone, so the audit tells nothing of anyone.

    Attributes:
        depth: how much of the trainer is run.
        canaries: how many trials; None lets ``canaries_for`` choose. Never a measured time: how long training took
            depends on the tenant's texts, and the number of trials is published.
    """

    depth: AuditDepth = AuditDepth.MECHANISM
    canaries: int | None = None

    def __post_init__(self) -> None:
        if self.canaries is not None and not 16 <= self.canaries <= 10_000_000:
            raise ValueError(f"canaries is {self.canaries}; allowed are 16 to 10,000,000")

    def canaries_for(self, steps: int) -> int:
        """Return the number of trials for a plan of so many steps."""
        if self.canaries is not None:
            return self.canaries
        if self.depth is AuditDepth.GRADIENTS:
            return GRADIENT_CANARIES
        return min(MOST_CANARIES, max(FEWEST_CANARIES, CANARY_STEPS // steps))


@dataclass(frozen=True, kw_only=True)
class CanaryScores:
    """The likelihood ratio of each canary's presence, and whether it was present.

    Attributes:
        depth: what was run.
        scores: float32, little endian: log-likelihood of what was released with the canary over that without it.
        present: one byte for each canary, 1 where it was there.
    """

    depth: AuditDepth
    scores: bytes = field(repr=False)
    present: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.scores) != 4 * len(self.present):
            raise ValueError("an audit has one score for each canary")

    @classmethod
    def of(cls, depth: AuditDepth, scores: npt.ArrayLike, present: npt.ArrayLike) -> Self:
        """Take the scores of an audit."""
        return cls(
            depth=depth,
            scores=np.asarray(scores, dtype="<f4").tobytes(),
            present=np.asarray(present, dtype=np.uint8).tobytes(),
        )

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the scores, and which canaries were present."""
        scores = np.frombuffer(self.scores, dtype="<f4").astype(np.float64)
        return scores, np.frombuffer(self.present, dtype=np.uint8) == 1

    def to_document(self) -> dict[str, str]:
        """Return a JSON-ready copy."""
        return {
            "depth": self.depth.value,
            "scores": base64.b64encode(self.scores).decode(),
            "present": base64.b64encode(self.present).decode(),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """Read ``to_document``'s form."""
        return cls(
            depth=AuditDepth(document["depth"]),
            scores=base64.b64decode(document["scores"]),
            present=base64.b64decode(document["present"]),
        )
