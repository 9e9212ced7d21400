"""What shows that a server applies *this* adapter: log-probabilities of next tokens after public texts, both ways.

A server that says "loaded" may go on answering with the base, or with another adapter; only the model can tell. So a
version carries a few public texts, as token ids, and at some places of each the log-probability of some next tokens,
without and with the adapter. Per token, because over a whole answer the signs cancel. The likeliest tokens of both are
watched, so that servers that tell only their best ones can be asked too. Public text and released weights: no charge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

# Largest mean difference, in nats, between the change that a server of this precision makes and the one measured here,
# over all watched tokens. Measured on SmolLM2-135M (tests/benchmarks/RESULTS.md): released adapters change 1.4 nats;
# the right one differs by 0.00001 (float32) to 0.08 (bfloat16), other tenants' by 0.88 and more.
TOLERANCES: Final[Mapping[str, float]] = MappingProxyType(
    {"float32": 0.01, "float16": 0.05, "bfloat16": 0.2, "quantized": 0.3}
)


@dataclass(frozen=True, kw_only=True)
class ProbePoint:
    """One place in a text: what is likely to come next."""

    after: int  # so many tokens of the text are read
    tokens: tuple[int, ...]  # ids of the watched next tokens
    base: tuple[float, ...]  # log-probability of each, of the base model
    adapter: tuple[float, ...]  # the same with the adapter


@dataclass(frozen=True, kw_only=True)
class TokenProbe:
    """A public question in the base's own chat template, and the beginning of its public answer."""

    prompt: str
    completion: str
    tokens: tuple[int, ...]  # both, as the model reads them
    points: tuple[ProbePoint, ...]


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What a server measures again before it says that it serves this version."""

    precision: str  # of the base while this was measured: a key of ``tolerances``
    effect: float  # mean absolute change over all watched tokens, nats
    probes: tuple[TokenProbe, ...]
    tolerances: Mapping[str, float] = field(
        default_factory=lambda: dict(TOLERANCES)
    )  # by the server's precision

    @classmethod
    def measured(cls, probes: tuple[TokenProbe, ...], precision: str) -> Self:
        """Return what was measured, with the tolerances that fit: none is finer than the measurement itself."""
        changes = [
            abs(with_it - without)
            for probe in probes
            for point in probe.points
            for without, with_it in zip(point.base, point.adapter, strict=True)
        ]
        least = TOLERANCES[precision]
        return cls(
            precision=precision,
            effect=round(sum(changes) / max(1, len(changes)), 6),
            probes=probes,
            tolerances={name: max(least, value) for name, value in sorted(TOLERANCES.items())},
        )

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal value."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read ``to_document``'s answer."""
        return cls(**{**document, "probes": tuple(_probe(one) for one in document["probes"])})


def _probe(document: Mapping[str, Any]) -> TokenProbe:
    points = tuple(
        ProbePoint(after=one["after"], **{name: tuple(one[name]) for name in ("tokens", "base", "adapter")})
        for one in document["points"]
    )
    return TokenProbe(**{**document, "tokens": tuple(document["tokens"]), "points": points})
