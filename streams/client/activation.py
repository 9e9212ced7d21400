"""Prove that a server applies an adapter: ask the model itself and compare with what the signed manifest says.

A server that says "loaded" may answer with the base, with another adapter, or with tensors in the wrong places. So it
is asked for the log-probabilities of a few next tokens after public texts, without and with the adapter, and the
*change* is compared: a quantized base moves both alike, so the change survives what the absolute values do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..contracts.manifest import ActivationV1
from .errors import AdapterInactiveError, AdapterUnprovenError, WrongAdapterError

FLOAT32, FLOAT16, BFLOAT16, QUANTIZED = "float32", "float16", "bfloat16", "quantized"
LEAST_SHARE = 0.5
"""A proof needs the measured changes to be nearer to the expected ones than half of those, so than to none at all."""

STRONG_SHARE = 0.005
"""Engines round what they keep in between, and a change of many nats with it: up to this share of the expected changes
is still the same answer where it is more than the manifest's tolerance. Another adapter's are nowhere near."""


class Proof(StrEnum):
    """What a measurement showed."""

    PROVED = "proved"  # this adapter acts
    TOO_FAINT = "too_faint"  # as expected within the tolerance, but so would the base alone be


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One text to read, and which next tokens to tell the log-probability of.

    Attributes:
        tokens: ids, exactly as the model must read them: no template, no token in front.
        points: pairs of how many of them are read, and the ids of the watched next tokens.
    """

    tokens: tuple[int, ...]
    points: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How a server's answers compare with the manifest.

    Attributes:
        proof: what they show.
        error: mean absolute difference between the measured changes and the expected ones, nats.
        effect: mean absolute change that was measured.
        base_error: mean absolute difference of the base alone; of a quantized base it is larger.
    """

    proof: Proof
    error: float
    effect: float
    base_error: float


def readings(activation: ActivationV1) -> tuple[Reading, ...]:
    """Return what a server is asked, in the order in which ``compare`` wants the answers."""
    return tuple(
        Reading(
            tokens=tuple(probe.tokens),
            points=tuple((point.after, tuple(point.tokens)) for point in probe.points),
        )
        for probe in activation.probes
    )


def compare(
    activation: ActivationV1, base: Sequence[float], adapter: Sequence[float], *, precision: str
) -> Measured:
    """Compare a server's answers with the manifest.

    Args:
        activation: of the version's manifest.
        base: log-probabilities of all watched tokens in the order of ``readings``, asked without any adapter.
        adapter: the same, asked with the adapter.
        precision: of the server's base: ``float32``, ``float16``, ``bfloat16`` or ``quantized``.

    Raises:
        AdapterUnprovenError: the manifest says nothing about this precision.
        AdapterInactiveError: the server answers as the base does, where the adapter would not.
        WrongAdapterError: the server's answers change in another way than the adapter's.
    """
    points = [point for probe in activation.probes for point in probe.points]
    expected_base = [float(value) for point in points for value in point.base]
    expected = [
        float(after) - float(before)
        for point in points
        for before, after in zip(point.base, point.adapter, strict=True)
    ]
    changes = [after - before for before, after in zip(base, adapter, strict=True)]
    if len(changes) != len(expected) or not all(math.isfinite(change) for change in changes):
        raise WrongAdapterError("the server did not tell the log-probability of every watched token")
    error = _mean(abs(one - other) for one, other in zip(changes, expected, strict=True))
    effect = _mean(abs(change) for change in changes)
    wanted = _mean(abs(change) for change in expected)
    tolerance = activation.tolerances.get(precision)
    if tolerance is None:
        known = ", ".join(sorted(activation.tolerances))
        raise AdapterUnprovenError(f"the manifest names no tolerance for {precision!r}; it has {known}")
    measured = Measured(
        proof=Proof.PROVED,
        error=error,
        effect=effect,
        base_error=_mean(abs(one - other) for one, other in zip(base, expected_base, strict=True)),
    )
    allowed = max(tolerance, STRONG_SHARE * wanted)
    if wanted > 0 and error <= min(allowed, LEAST_SHARE * wanted) and effect > 0:
        return measured
    if wanted > 2 * tolerance and effect <= LEAST_SHARE * tolerance:
        raise AdapterInactiveError(
            "the adapter is loaded and the model answers as if it were not; look at its layers and modules"
        )
    if error > allowed:
        raise WrongAdapterError(
            "the model's answers change in another way than this adapter's; another one may be loaded"
        )
    return Measured(proof=Proof.TOO_FAINT, error=error, effect=effect, base_error=measured.base_error)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(1, len(found))
