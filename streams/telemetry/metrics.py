"""What is counted, for Prometheus: per topic and reason, never per user and never with a tenant's name.

They are exact and for the platform operator, who is trusted; none counts what one tenant holds. Each has its mark in
``privacy.boundary.register``.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client import Counter as PrometheusCounter

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    class Timed(Protocol):
        """A record, as far as metrics go."""

        @property
        def timestamp(self) -> int:
            """Time of the record, in milliseconds since 1970."""

    class Item(Protocol):
        """One work of a batch."""

        @property
        def record(self) -> Timed:
            """Its record."""

    class Counts(Protocol):
        """What one batch brought about."""

        @property
        def effects(self) -> int:
            """Events that had their effect."""

        @property
        def duplicates(self) -> int:
            """Events that had had it before."""

        @property
        def dead_letters(self) -> int:
            """Events that were refused."""


class WorkerMetrics:
    """The metrics of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._events = PrometheusCounter(
            "discreet_events", "Events by what became of them.", ("topic", "outcome"), registry=registry
        )
        self._letters = PrometheusCounter(
            "discreet_dead_letters", "Dead letters by reason.", ("topic", "reason"), registry=registry
        )
        self._batch_events = Histogram(
            "discreet_batch_events",
            "Events in one transaction.",
            ("topic",),
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "discreet_batch_seconds",
            "Time of one transaction, retries included.",
            ("topic",),
            registry=registry,
        )
        self._latency = Histogram(
            "discreet_ingest_latency_seconds",
            "From the record's time to its committed effect, for two events of each batch.",
            ("topic",),
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self._retries = PrometheusCounter(
            "discreet_retries",
            "Attempts that failed for want of the database or broker.",
            ("topic",),
            registry=registry,
        )
        self._slowed = PrometheusCounter(
            "discreet_slowed_tenants",
            "How often a tenant was put behind all others, because nearly all of its events were refused.",
            ("topic",),
            registry=registry,
        )
        self.lag = Gauge(
            "discreet_lag_events",
            "End offset less committable offset.",
            ("topic", "partition"),
            registry=registry,
        )
        self.oldest = Gauge(
            "discreet_oldest_unprocessed_seconds",
            "Age of the oldest record that has not had its effect.",
            registry=registry,
        )
        self.stalled = Gauge(
            "discreet_stalled_seconds",
            "How long the partition that waits longest has had unread records without progress.",
            registry=registry,
        )
        self.buffered = Gauge("discreet_buffered_events", "Events in memory.", ("topic",), registry=registry)
        self._held = Gauge(
            "discreet_held_events",
            "Events that wait for a consent, rounded up to a power of ten.",
            ("topic",),
            registry=registry,
        )
        self.rebalances = Gauge("discreet_rebalances", "Rebalances since the start.", registry=registry)
        self.outbox = Gauge("discreet_outbox_waiting", "Rows that wait to be sent.", registry=registry)
        self.parked = Gauge(
            "discreet_outbox_parked",
            "Rows and topics of the outbox that could not be sent and wait apart.",
            registry=registry,
        )
        self._unsendable = PrometheusCounter(
            "discreet_outbox_failures",
            "Attempts to send one row of the outbox that failed by itself.",
            ("topic", "error"),
            registry=registry,
        )
        self._failed_logins = PrometheusCounter(
            "discreet_failed_logins",
            "Requests to the operator API with a wrong token.",
            ("outcome",),
            registry=registry,
        )
        self._chore_failures = PrometheusCounter(
            "discreet_chore_failures",
            "Times that periodic work failed; it is tried again at its next turn.",
            ("chore",),
            registry=registry,
        )
        BOUNDARY.require(Kind.METRIC, [family.name for family in registry.collect()])

    def reads(self, topics: Iterable[str]) -> None:
        """Show at 0 what rules wait for in topics: a series that begins with its first event never rises for them."""
        for topic in topics:
            self._letters.labels(topic, "processing_failed")
            self._slowed.labels(topic)

    def batch_done(self, topic: str, works: Sequence[Item], outcome: Counts, seconds: float) -> None:
        """Note one processed batch."""
        self._events.labels(topic, "effect").inc(outcome.effects)
        self._events.labels(topic, "duplicate").inc(outcome.duplicates)
        self._events.labels(topic, "dead_letter").inc(outcome.dead_letters)
        self._batch_events.labels(topic).observe(len(works))
        self._batch_seconds.labels(topic).observe(seconds)
        now = time.time()
        for work in (works[0], works[-1]):
            self._latency.labels(topic).observe(max(0.0, now - work.record.timestamp / 1000))

    def retrying(self, topic: str) -> None:
        """Note one failed attempt."""
        self._retries.labels(topic).inc()

    def slowed(self, topic: str) -> None:
        """Note that one more tenant is served behind the others; it is not named."""
        self._slowed.labels(topic).inc()

    def unsendable(self, topic: str, error: str) -> None:
        """Note that a row of the outbox failed by itself."""
        self._unsendable.labels(topic, error).inc()

    def chore_failed(self, chore: str) -> None:
        """Note that periodic work failed."""
        self._chore_failures.labels(chore).inc()

    def failed_login(self, outcome: str) -> None:
        """Note a wrong token: it was ``refused``, or not even looked at (``limited``)."""
        self._failed_logins.labels(outcome).inc()

    def dead_lettered(self, places: Iterable[tuple[str, str]]) -> None:
        """Note dead letters, each by (topic, reason)."""
        for (topic, reason), count in Counter(places).items():
            self._letters.labels(topic, reason).inc(count)

    def held(self, topic: str, events: int) -> None:
        """Show about how many events wait for a consent; the exact number may be one user's."""
        self._held.labels(topic).set(10 ** len(str(events - 1)) if events > 1 else events * 10)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
