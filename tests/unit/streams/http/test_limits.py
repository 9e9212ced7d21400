"""Buckets: a burst, then a rate, each key for itself, in bounded memory."""

from streams.http.limits import MOST_KEYS, RateLimit


def test_a_burst_then_a_rate_each_key_for_itself():
    now = [0.0]
    limit = RateLimit(burst=3, per_second=0.5, monotonic=lambda: now[0])
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 2.0]
    assert limit.wait("a") == 2.0
    assert limit.take("b") == 0
    now[0] = 2.0
    assert [limit.take("a"), limit.take("a")] == [0, 2.0]
    now[0] = 1000.0
    assert [limit.take("a") for _ in range(4)].count(0) == 3


def test_keys_do_not_fill_the_memory():
    limit = RateLimit(burst=1, per_second=1.0, monotonic=lambda: 0.0)
    for number in range(MOST_KEYS + 5):
        limit.take(number)
    assert len(limit._buckets) == MOST_KEYS
    assert limit.wait(MOST_KEYS + 4) == 1.0
