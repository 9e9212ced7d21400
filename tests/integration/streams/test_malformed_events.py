"""A seeded slice of the fuzz run (``tests/benchmarks/fuzz.py`` is the long one): no crash, a letter for each."""

from collections import Counter

from personalization.storage.signals import SignalRow
from streams.contracts.dead_letter import DeadLetterReason
from tests.benchmarks.fuzz import FuzzWorld
from tests.fakes.malformed_events import malformed


def test_every_malformed_event_is_dead_lettered_with_a_reason(engine):
    world = FuzzWorld(engine)
    records = list(malformed(seed=7, count=2_000))
    for start in range(0, len(records), 200):
        outcome = world.take(records[start : start + 200])
        assert (outcome.effects, outcome.dead_letters) == (0, 200)
    assert len(world.sender.sent) == 2_000
    reasons = Counter(world.sender.reasons)
    assert set(reasons) <= {reason.value for reason in DeadLetterReason}
    assert len(reasons) >= 7
    assert world.count(SignalRow) == 0
