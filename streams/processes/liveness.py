"""Is the worker getting anywhere? Judged by the broker's end offsets, not by what Faust thinks of itself.

A partition is *stalled* when it has records we did not settle and nothing of it was settled for longer than
allowed; then the worker is not alive and its supervisor should restart it. It is *ready* when it has
partitions (or knows that it need not have any) and lags no further behind than allowed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.broker.app import WorkerApp
    from streams.ingest.intake import Intake
    from streams.settings import HttpSettings
    from streams.telemetry.metrics import WorkerMetrics

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
ANSWER_SECONDS = 10.0

Partition = tuple[str, int]


@dataclass
class ProgressWatch:
    """Compares positions with end offsets over time (pure but for the clock that is passed in)."""

    stall_seconds: float
    ready_lag_events: int
    _seen: dict[Partition, tuple[int, float]] = field(default_factory=dict)  # position, since when
    _lag: dict[Partition, int] = field(default_factory=dict)
    _assigned: bool = False

    def look(self, ends: Mapping[Partition, int], positions: Mapping[Partition, int], now: float) -> None:
        """Note where every assigned partition stands at ``now`` (monotonic seconds)."""
        self._assigned = True
        self._seen = {partition: seen for partition, seen in self._seen.items() if partition in ends}
        self._lag = {}
        for partition, end in ends.items():
            position = positions.get(partition, 0)
            self._lag[partition] = max(0, end - position)
            before = self._seen.get(partition)
            if before is None or before[0] != position or self._lag[partition] == 0:
                self._seen[partition] = (position, now)

    def unsettled_seconds(self, now: float) -> float:
        """Return for how long the worst partition has had records without progress."""
        waits = [now - self._seen[partition][1] for partition, lag in self._lag.items() if lag]
        return max(waits, default=0.0)

    def alive(self, now: float) -> bool:
        """Say whether no partition is stalled."""
        return self.unsettled_seconds(now) <= self.stall_seconds

    @property
    def ready(self) -> bool:
        """Say whether the group assigned us our share and we have nearly caught up."""
        return self._assigned and sum(self._lag.values()) <= self.ready_lag_events

    @property
    def lag(self) -> Mapping[Partition, int]:
        """Unsettled records of each assigned partition."""
        return self._lag


class Liveness:
    """Looks at a running worker every two seconds, and answers the probes."""

    def __init__(
        self,
        intakes: Mapping[str, Intake],
        metrics: WorkerMetrics,
        settings: HttpSettings,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intakes = intakes
        self._metrics = metrics
        self._monotonic = monotonic
        self._watch = ProgressWatch(settings.stall_seconds, settings.ready_lag_events)

    async def run(self, app: WorkerApp) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._look(app)
            except Exception as error:  # noqa: BLE001  # a broker that is away shows as no progress
                log.debug("watch_failed", error=type(error).__name__)
            self._publish(app)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, app: WorkerApp) -> None:
        consumer = app.run_consumer
        assigned = consumer.assignment()
        if not assigned and app.rebalancing:
            return
        async with asyncio.timeout(ANSWER_SECONDS):
            ends = await consumer.highwaters(*assigned) if assigned else {}
        positions = {(tp.topic, tp.partition): consumer.position_of(tp) for tp in assigned}
        self._watch.look(
            {(tp.topic, tp.partition): end for tp, end in ends.items()}, positions, self._monotonic()
        )

    def _publish(self, app: WorkerApp) -> None:
        self._metrics.lag.clear()
        for (topic, partition), lag in self._watch.lag.items():
            self._metrics.lag.labels(topic, str(partition)).set(lag)
        stalled = self._watch.unsettled_seconds(self._monotonic())
        self._metrics.stalled.set(stalled)
        # What is not fetched yet is at least as old as its partition has stood still.
        self._metrics.oldest.set(max(stalled, self._oldest_seconds()))
        self._metrics.rebalances.set(app.run_consumer.rebalances)
        for topic, intake in self._intakes.items():
            self._metrics.buffered.labels(topic).set(intake.buffered)
            self._metrics.held(topic, intake.held)

    def _oldest_seconds(self) -> float:
        times = [intake.oldest_timestamp for intake in self._intakes.values()]
        oldest = min((each for each in times if each is not None), default=None)
        return 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)

    @property
    def alive(self) -> bool:
        """Say whether the worker gets anywhere; before it is connected it is alive and not ready."""
        return self._watch.alive(self._monotonic())

    @property
    def ready(self) -> bool:
        """Say whether the worker has nearly caught up."""
        return self._watch.ready
