"""Successive private adapters of one line: their exponential average, and the check against forgetting.

An average of released adapters is free (post-processing). Each release carries noise of its own, so the average of k
independent ones has about 1/k of one's noise variance; older ones count less, because a tenant's habits drift. Drift
itself is measured here between released adapters alone, which is free too: nothing private is read for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from personalization.adapters import GateCheck
from personalization.factors import (
    difference,
    norm,
    require_same_subspace,
    split_factors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from personalization.training.job import TenantResult

DEFAULT_FORGETTING_LIMIT = 0.01  # of the base model's loss on public text
PUBLIC_TEXT_CHECK = "public_text"
DRIFT_CHECK = "drift"
NOISE_CHECK = "noise_norm"
DRIFT_RATIO = (
    1.5  # with 100 trained numbers or more, noise alone stays below it but once in many thousand releases
)


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


def public_text_check(
    base: Sequence[float], adapted: Sequence[float], *, limit: float = DEFAULT_FORGETTING_LIMIT
) -> GateCheck:
    """Return the gate's check that an adapter still knows public text: mean loss at most ``limit`` above the base's.

    Args:
        base: loss of the base model on each public text, nats per token.
        adapted: loss with the adapter on the same texts.
        limit: allowed relative increase.

    Raises:
        ValueError: the two lists differ in length or are empty.
    """
    if len(base) != len(adapted) or not base:
        raise ValueError("the base and the adapter must be measured on the same public texts, at least one")
    increase = sum(adapted) / sum(base) - 1.0
    finite = math.isfinite(increase)
    return GateCheck(
        name=PUBLIC_TEXT_CHECK,
        passed=finite and increase <= limit,
        value=increase if finite else None,
        threshold=limit,
        detail="relative increase of the loss on public text",
    )


def public_checks(result: TenantResult, limit: float | None) -> tuple[GateCheck, ...]:
    """Return what a training result says about public text and about its own noise; all of it is free.

    Args:
        result: of the training child.
        limit: allowed relative increase of the loss on public text. With a limit, a result that was not measured
            fails; None measures without a limit.
    """
    checks = []
    losses = result.public_losses
    if losses is not None:
        checks.append(
            public_text_check(losses.base, losses.adapted, limit=math.inf if limit is None else limit)
        )
    elif limit is not None:
        checks.append(GateCheck(name=PUBLIC_TEXT_CHECK, passed=False, threshold=limit, detail="not measured"))
    if limit is None:  # an infinite threshold has no place in canonical JSON
        checks = [replace(check, threshold=None) for check in checks]
    if result.noise_norm is not None:
        checks.append(
            GateCheck(
                name=NOISE_CHECK,
                passed=True,
                value=result.noise_norm,
                detail="length of what the same plan releases for nobody",
            )
        )
    return tuple(checks)
