"""What a gateway counts, for Prometheus; never per user and never with a tenant's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from personalization.memory.values import Unsigned
from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Callable


class GatewayMetrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._answers = Counter(
            "discreet_gateway_answers",
            "Answers by form and by how they were made.",
            ("form", "reason"),
            registry=registry,
        )
        self._refusals = Counter(
            "discreet_gateway_refusals", "Requests refused, by status.", ("status",), registry=registry
        )
        self._seconds = Histogram(
            "discreet_gateway_seconds",
            "Time until an answer was there, or a stream's first piece; nearly all of it is the engine's.",
            ("form",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self._feedback = Counter(
            "discreet_gateway_feedback",
            "Feedback by outcome and by what became of it.",
            ("outcome", "fate"),
            registry=registry,
        )
        self._failed_logins = Counter(
            "discreet_gateway_failed_logins",
            "Requests with a wrong token.",
            ("outcome",),
            registry=registry,
        )
        self._shadows = Counter(
            "discreet_gateway_shadows",
            "Candidates that answered silently beside what was shown, by how both compare.",
            ("result",),
            registry=registry,
        )
        self._shadow_seconds = Histogram(
            "discreet_gateway_shadow_seconds",
            "Time until a silent candidate had answered as a whole.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self._flag_failures = Counter(
            "discreet_gateway_flag_failures",
            "Flags that the operator's own provider could not tell; desired states decided alone.",
            registry=registry,
        )
        self._routes = Counter(
            "discreet_gateway_routes",
            "Requests that were routed among a tenant's lines, by what answers and why.",
            ("level", "reason"),
            registry=registry,
        )
        self._dropped = Counter(
            "discreet_gateway_levers_dropped",
            "What was left out of requests for latency budgets; over: late with nothing left to drop.",
            ("lever",),
            registry=registry,
        )
        self._memory = Counter(
            "discreet_gateway_memory",
            "Questions looked up in tenants' documents, by what came of it.",
            ("outcome",),
            registry=registry,
        )
        self._memory_away = Counter(
            "discreet_gateway_memory_away",
            "Questions answered without the memory that they have: full, tenant_full, slow or failed.",
            ("reason",),
            registry=registry,
        )
        self._memory_not_signed = Counter(
            "discreet_gateway_memory_not_signed",
            "Questions answered without a collection or candidate that is not what was signed.",
            ("what",),
            registry=registry,
        )
        for what in Unsigned:  # `increase` sees nothing in a series that begins at 1
            self._memory_not_signed.labels(what.value)
        self._lever_seconds = Gauge(
            "discreet_gateway_lever_seconds",
            "What a lever adds to the time of an answer (plain: the answer without any), lately.",
            ("lever", "form", "quantile"),
            registry=registry,
        )
        self._gauges = {
            name: Gauge(f"discreet_gateway_{name}", what, registry=registry)
            for name, what in {
                "requests_now": "Requests in progress.",
                "remembered": "Answers kept for feedback.",
                "remembered_bytes": "Sealed text kept for feedback.",
                "lines": "Adapter lines that want something served.",
                "engine_up": "1 while the engine answers.",
                "ready": "1 when tokens, lines and consents are known.",
            }.items()
        }
        BOUNDARY.require(Kind.METRIC, [family.name for family in registry.collect()])

    def watch(self, name: str, value: Callable[[], float]) -> None:
        """Let a gauge show what ``value`` returns."""
        self._gauges[name].set_function(value)

    def answered(self, form: str, reason: str, seconds: float) -> None:
        """Note an answer."""
        self._answers.labels(form, reason).inc()
        self._seconds.labels(form).observe(seconds)

    def refused(self, status: int) -> None:
        """Note a request that was refused."""
        self._refusals.labels(str(status)).inc()

    def fed_back(self, outcome: str, fate: str) -> None:
        """Note one piece of feedback."""
        self._feedback.labels(outcome, fate).inc()

    def shadowed(self, result: str, seconds: float) -> None:
        """Note a candidate that answered silently, or was not asked for want of room (``skipped``)."""
        self._shadows.labels(result).inc()
        if result != "skipped":
            self._shadow_seconds.observe(seconds)

    def flag_failed(self) -> None:
        """Note a flag that the operator's provider could not tell."""
        self._flag_failures.inc()

    def routed(self, level: str, reason: str) -> None:
        """Note a routed request."""
        self._routes.labels(level, reason).inc()

    def dropped(self, lever: str) -> None:
        """Note a lever that was left out, or ``over``."""
        self._dropped.labels(lever).inc()

    def looked_up(self, outcome: str) -> None:
        """Note a question that was looked up."""
        self._memory.labels(outcome).inc()

    def memory_away(self, reason: str) -> None:
        """Count a question that was answered without the memory."""
        self._memory_away.labels(reason).inc()

    def memory_not_signed(self, what: str) -> None:
        """Count a question that a ``collection`` or ``candidate`` was left out of for its signature."""
        self._memory_not_signed.labels(what).inc()

    def watch_lever(self, lever: str, form: str, quantile: str, value: Callable[[], float]) -> None:
        """Let a gauge show a quantile of a lever's time; ``form`` is ``whole`` or ``stream``."""
        self._lever_seconds.labels(lever, form, quantile).set_function(value)

    def failed_login(self, outcome: str) -> None:
        """Note a wrong token: it was ``refused``, or not even looked at (``limited``)."""
        self._failed_logins.labels(outcome).inc()

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
