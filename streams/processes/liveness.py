"""Is the worker getting anywhere? Judged by the broker's end offsets, not by what Faust thinks of itself.

A partition is *stalled* when it has records we did not settle and nothing of it was settled for longer than
allowed; then the worker is not alive and its supervisor should restart it. Nor is it alive when the broker answers
and the group still has not given it its share after twice that time (the embedded broker's group has been seen to
stand still so): what nobody is assigned nobody falls behind with. It is *ready* when it has partitions (or knows that
it need not have any) and lags no further behind than allowed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from faust.types import TP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.broker.app import WorkerApp
    from streams.ingest.intake import Intake
    from streams.settings import HttpSettings
    from streams.telemetry.metrics import WorkerMetrics

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
JOINING = 2  # times as long as a partition may stand still; a group waits for its slowest member meanwhile
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
    _joining_since: float | None = None

    def join(self, now: float) -> None:
        """Note that the broker answers and the group has not given us our share (yet)."""
        if self._joining_since is None:
            self._joining_since = now

    def lose_sight(self) -> None:
        """Note that the broker does not answer: nobody can join a group then."""
        self._joining_since = None

    def look(self, ends: Mapping[Partition, int], positions: Mapping[Partition, int], now: float) -> None:
        """Note where every assigned partition stands at ``now`` (monotonic seconds)."""
        self._assigned = True
        self._joining_since = None
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
        """Say whether no partition is stalled, and joining the group does not take for ever."""
        joining = 0.0 if self._joining_since is None else now - self._joining_since
        return self.unsettled_seconds(now) <= self.stall_seconds and joining <= JOINING * self.stall_seconds

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
        joining = not assigned and (app.rebalancing or not app.rebalancing_count)
        asked = {TP(topic, 0) for topic in app.receivers} if joining else assigned
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                ends = await consumer.highwaters(*asked) if asked else {}
        except Exception:
            self._watch.lose_sight()
            raise
        if joining:
            self._watch.join(self._monotonic())
            return
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
