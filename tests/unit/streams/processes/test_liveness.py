from streams.processes.liveness import ProgressWatch

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
