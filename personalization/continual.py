"""Successive private adapters of one line: their exponential average, and the check against forgetting.

An average of released adapters is free (post-processing). Each release carries noise of its own, so the average of k
independent ones has about 1/k of one's noise variance; older ones count less, because a tenant's habits drift. Drift
itself is measured here between released adapters alone, which is free too: nothing private is read for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from personalization.adapters import GateCheck
from personalization.errors import MetaStartError
from personalization.meta import (
    difference,
    norm,
    read_config,
    require_same_subspace,
    split_factors,
    write_adapter,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_DECAY = 0.5
DEFAULT_FORGETTING_LIMIT = 0.01  # of the base model's loss on public text
PUBLIC_TEXT_CHECK = "public_text"


def decayed_weights(count: int, decay: float) -> list[float]:
    """Return weights of ``count`` versions, oldest first; each newer one counts ``1 ÷ decay`` times as much.

    Raises:
        ValueError: ``count`` is below 1, or ``decay`` is outside (0, 1].
    """
    if count < 1 or not 0 < decay <= 1:
        raise ValueError(
            f"count is {count} and decay is {decay}; allowed are at least 1, and above 0 up to 1"
        )
    raw = [decay ** (count - 1 - number) for number in range(count)]
    return [value / sum(raw) for value in raw]


def average_versions(directories: Sequence[Path], target: Path, *, decay: float = DEFAULT_DECAY) -> None:
    """Write the exponential average of released adapters of one line, given oldest first, to ``target``.

    Args:
        directories: portable adapters in one frozen subspace.
        target: a directory that does not exist yet.
        decay: how much less each older version counts; 1 is the plain mean.

    Raises:
        MetaStartError: they share no frozen subspace, or there is none.
    """
    if not directories:
        raise MetaStartError("no released adapter was given to average; start from zero")
    factors = [split_factors(directory) for directory in directories]
    shared = factors[0][0]
    for down, _ in factors:
        require_same_subspace(shared, down)
    weights = decayed_weights(len(factors), decay)
    mean = {
        name: sum(
            (weight * up[name] for weight, (_, up) in zip(weights, factors, strict=True)),
            np.zeros_like(values),
        )
        for name, values in factors[0][1].items()
    }
    write_adapter(target, read_config(directories[-1]), shared, mean)


def drift(earlier: Path, later: Path) -> float:
    """Return how far a line moved between two released versions, as a share of the earlier one's length.

    Noise moves a line too, so compare it with the drift of other lines of the same plan before calling it a change of
    habits. It is computed from released adapters alone and costs nothing.

    Raises:
        MetaStartError: the versions share no frozen subspace.
    """
    (down, before), (other, after) = split_factors(earlier), split_factors(later)
    require_same_subspace(down, other)
    length = norm(before)
    return math.inf if length == 0 else norm(difference(after, before)) / length


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
