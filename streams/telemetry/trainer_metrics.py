"""What a trainer counts, for Prometheus, and whether it gets anywhere; never per user and never with a tenant's name.

Exact counts of rounds and times of jobs are for the platform operator, who is trusted (``privacy.boundary.register``).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from personalization.choices.values import ChoiceOutcome
from personalization.drift.features import FAMILIES
from personalization.drift.reaction import Followed
from personalization.drift.values import ReadingOutcome
from personalization.releases.observer import TrainerObserver
from personalization.releases.protocol import Closed
from personalization.rounds.states import OutcomeCode
from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from personalization.adapters.manifest import AdapterVersion
    from personalization.releases.protocol import Prepared
    from personalization.rounds.states import Lease
    from personalization.training.jobs.job import Progress


class TrainerMetrics(TrainerObserver):
    """The metrics of one trainer process, in a registry of their own; it passes on what it hears.

    Args:
        then: told everything as well.
        stall_seconds: a trainer of which nothing was heard for longer does not get anywhere.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        then: TrainerObserver | None = None,
        *,
        stall_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._then = then or TrainerObserver()
        self._stall_seconds = stall_seconds
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._heard_at = monotonic()
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._leased = Counter("discreet_rounds_leased", "Rounds that this trainer took.", registry=registry)
        self._closed = Counter(
            "discreet_rounds_closed", "Rounds by how they ended.", ("outcome",), registry=registry
        )
        self._refusals = Counter(
            "discreet_budget_refusals",
            "Rounds that were closed for want of budget.",
            registry=registry,
        )
        self._lost = Counter(
            "discreet_leases_lost",
            "Rounds given up, because another trainer may hold them.",
            registry=registry,
        )
        self._chore_failures = Counter(
            "discreet_chore_failures",
            "Failures of periodic work, which is tried again.",
            ("chore",),
            registry=registry,
        )
        self._job = Histogram(
            "discreet_job_seconds",
            "Time of one job in the training child, by whether it succeeded.",
            ("outcome",),
            buckets=(1, 5, 15, 60, 300, 900, 3600, 14_400),
            registry=registry,
        )
        self._drift_readings = Counter(
            "discreet_drift_readings", "Readings of drift by how they ended.", ("outcome",), registry=registry
        )
        self._drift_alarms = Counter(
            "discreet_drift_alarms",
            "Lines that drifted, by what changed and what followed.",
            ("family", "followed"),
            registry=registry,
        )
        self._choices = Counter(
            "discreet_prompt_choices",
            "Choices among prompt templates by how they ended.",
            ("outcome",),
            registry=registry,
        )
        self._store_away = Gauge(
            "discreet_artifact_store_away", "1 while the artifact store takes no files.", registry=registry
        )
        silent = Gauge(
            "discreet_trainer_silent_seconds", "Time since the trainer was last heard of.", registry=registry
        )
        silent.set_function(self._silence)
        self._begin_at_zero()
        BOUNDARY.require(Kind.METRIC, [family.name for family in registry.collect()])

    def _begin_at_zero(self) -> None:
        """Show what happens once in weeks before it happens: ``increase`` sees nothing in a series that begins at 1."""
        for choice in ChoiceOutcome:
            self._choices.labels(choice.value)
        for reading in ReadingOutcome:
            self._drift_readings.labels(reading.value)
        for family in FAMILIES:
            for followed in Followed:
                self._drift_alarms.labels(family.name, followed.value)

    @property
    def alive(self) -> bool:
        """Say whether the trainer was heard of lately."""
        return self._silence() <= self._stall_seconds

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def turned(self) -> None:
        """Note that it looks for work."""
        self._hear()
        self._then.turned()

    def store_answered(self, *, ready: bool) -> None:
        """Hear whether the artifact store takes files."""
        self._store_away.set(0 if ready else 1)
        self._then.store_answered(ready=ready)

    def leased(self, leases: Sequence[Lease]) -> None:
        """Count which rounds were taken."""
        self._hear()
        self._leased.inc(len(leases))
        self._then.leased(leases)

    def progress(self, prepared: Sequence[Prepared], progress: Progress) -> None:
        """Note that the child gets on."""
        self._hear()
        self._then.progress(prepared, progress)

    def trained(self, seconds: float, *, succeeded: bool) -> None:
        """Note one job."""
        self._hear()
        self._job.labels("succeeded" if succeeded else "failed").observe(seconds)
        self._then.trained(seconds, succeeded=succeeded)

    def closed(self, lease: Lease, outcome: AdapterVersion | Closed) -> None:
        """Count how a round ended."""
        self._hear()
        code = outcome.code if isinstance(outcome, Closed) else OutcomeCode.PUBLISHED
        self._closed.labels(code.value).inc()
        if code is OutcomeCode.BUDGET_EXHAUSTED:
            self._refusals.inc()
        self._then.closed(lease, outcome)

    def given_up(self, lease: Lease) -> None:
        """Count a round that another trainer may hold."""
        self._hear()
        self._lost.inc()
        self._then.given_up(lease)

    def chore_failed(self, chore: str) -> None:
        """Count a failure of work beside the rounds; it says nothing of the rounds."""
        self._chore_failures.labels(chore).inc()
        self._then.chore_failed(chore)

    def drift_read(self, outcome: str, *, family: str | None, followed: str | None) -> None:
        """Count a reading of drift, and an alarm."""
        self._drift_readings.labels(outcome).inc()
        if family is not None:
            self._drift_alarms.labels(family, followed or "").inc()
        self._then.drift_read(outcome, family=family, followed=followed)

    def choice_ended(self, outcome: str) -> None:
        """Count a choice among prompt templates."""
        self._choices.labels(outcome).inc()
        self._then.choice_ended(outcome)

    def _hear(self) -> None:
        with self._guard:
            self._heard_at = self._monotonic()

    def _silence(self) -> float:
        with self._guard:
            return self._monotonic() - self._heard_at
