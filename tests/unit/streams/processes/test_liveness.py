import asyncio
from contextlib import suppress
from typing import ClassVar

from streams.processes import liveness
from streams.processes.liveness import ProgressWatch
from streams.settings import HttpSettings
from streams.telemetry.metrics import WorkerMetrics

ZERO, ONE = ("t", 0), ("t", 1)


def watch():
    return ProgressWatch(stall_seconds=10, ready_lag_events=5)


def test_no_records_to_read_is_no_stall():
    seen = watch()
    seen.look({ZERO: 7}, {ZERO: 7}, now=0)
    seen.look({ZERO: 7}, {ZERO: 7}, now=1000)
    assert seen.alive(1000)
    assert seen.ready


def test_unread_records_without_progress_are_a_stall_even_beside_a_moving_partition():
    seen = watch()
    seen.look({ZERO: 9, ONE: 5}, {ZERO: 3, ONE: 0}, now=0)
    seen.look({ZERO: 9, ONE: 50}, {ZERO: 3, ONE: 20}, now=9)
    assert seen.alive(9)
    seen.look({ZERO: 9, ONE: 90}, {ZERO: 3, ONE: 40}, now=11)
    assert not seen.alive(11)


def test_progress_starts_the_clock_again():
    seen = watch()
    seen.look({ZERO: 9}, {ZERO: 3}, now=0)
    seen.look({ZERO: 9}, {ZERO: 4}, now=9)
    assert seen.alive(18)
    assert not seen.alive(20)


def test_a_worker_far_behind_is_alive_but_not_ready():
    seen = watch()
    assert not seen.ready  # not assigned yet
    seen.look({ZERO: 100}, {ZERO: 3}, now=0)
    assert seen.alive(1)
    assert not seen.ready


def test_a_partition_that_was_given_up_stalls_nobody():
    seen = watch()
    seen.look({ZERO: 9}, {ZERO: 3}, now=0)
    seen.look({ONE: 9}, {ONE: 9}, now=100)
    assert seen.alive(100)


def test_a_group_that_never_gives_a_share_is_a_stall_while_the_broker_answers():
    seen = watch()
    seen.join(0)
    assert seen.alive(20)  # a group waits for its slowest member
    assert not seen.ready
    seen.join(21)
    assert not seen.alive(21)
    seen.lose_sight()
    assert seen.alive(22)  # nobody joins a broker that is away, and another start would not help
    seen.join(30)
    assert seen.alive(50)
    assert not seen.alive(51)
    seen.look({}, {}, now=52)  # others have all partitions
    assert seen.alive(99)
    assert seen.ready


class Joining:
    """An app whose group has not given it anything, on a broker that answers or does not."""

    receivers: ClassVar = {"t": None}
    rebalancing, rebalancing_count, rebalances = True, 1, 1
    away = False

    def __init__(self):
        self.run_consumer = self

    def assignment(self):
        return set()

    async def highwaters(self, *partitions):
        if self.away:
            raise TimeoutError
        return dict.fromkeys(partitions, 7)


def test_a_worker_that_its_group_leaves_waiting_says_that_it_hangs():
    at, app = [0.0], Joining()
    settings = HttpSettings(stall_seconds=10, ready_lag_events=5)
    judge = liveness.Liveness({}, WorkerMetrics(), settings, lambda: at[0])

    def look(now):
        at[0] = now
        with suppress(TimeoutError):
            asyncio.run(judge._look(app))
        return judge.alive, judge.ready

    assert [look(0), look(19), look(21)] == [(True, False), (True, False), (False, False)]
    app.away = True
    assert look(22) == (True, False)
    app.away, app.rebalancing = False, False  # the others have all partitions
    assert look(99) == (True, True)
