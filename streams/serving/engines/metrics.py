"""What a bridge counts, for Prometheus; never per tenant, line or version."""

from __future__ import annotations

from collections import Counter as Tally
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.serving.engines.lives import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streams.serving.engines.lives import Life

BUCKETS = (0.0001, 0.001, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 1.0)


class BridgeMetrics:
    """The metrics of one bridge, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._away = Gauge(
            "discreet_bridge_engine_away", "1 while the engine does not answer.", registry=registry
        )
        self._unsafe = Gauge(
            "discreet_bridge_engine_unsafe",
            "1 while the engine holds no adapter because it mixed requests that came at once.",
            registry=registry,
        )
        self._places = Gauge(
            "discreet_bridge_places", "Adapters that the engine holds at most.", registry=registry
        )
        self._stages = Gauge(
            "discreet_bridge_adapters", "Adapter versions by how far they are.", ("stage",), registry=registry
        )
        self._swaps = Counter(
            "discreet_bridge_swaps", "Versions put out for others that were wanted.", registry=registry
        )
        self._refusals = Counter(
            "discreet_bridge_refusals",
            "Versions that were not served, by reason.",
            ("code",),
            registry=registry,
        )
        self._errors = Histogram(
            "discreet_bridge_probe_error",
            "Mean difference, in nats, between what a verified version changed and what its manifest says.",
            buckets=BUCKETS,
            registry=registry,
        )
        BOUNDARY.require(Kind.METRIC, [family.name for family in registry.collect()])

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)

    def away(self, *, away: bool) -> None:
        """Note whether the engine answers."""
        self._away.set(1 if away else 0)

    def unsafe(self, *, unsafe: bool) -> None:
        """Note whether the engine mixed requests."""
        self._unsafe.set(1 if unsafe else 0)

    def held(self, lives: Iterable[Life], capacity: int) -> None:
        """Note how far all versions are."""
        self._places.set(capacity)
        found = Tally(life.stage for life in lives)
        for stage in Stage:
            self._stages.labels(stage.value).set(found[stage])

    def swapped(self) -> None:
        """Count one version that made place."""
        self._swaps.inc()

    def refused(self, code: str) -> None:
        """Count one version that is not served."""
        self._refusals.labels(code).inc()

    def proved(self, error: float) -> None:
        """Note how near to the manifest a verified version is."""
        self._errors.observe(error)
