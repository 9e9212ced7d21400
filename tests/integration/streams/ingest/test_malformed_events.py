"""A seeded slice of the fuzz run (``tests/benchmarks/fuzz.py`` is the long one): no crash, a letter for each."""

from collections import Counter

import pytest

from personalization.signals.rows import SignalRow
from privacy.erasure.tables import ErasureRow
from streams.contracts.dead_letter import DeadLetterReason
from streams.storage.tables import ServingAckRow
from tests.benchmarks.fuzz import FuzzWorld, fuzz
from tests.fakes.malformed_events import TOPICS


@pytest.mark.parametrize("topic", TOPICS)
def test_every_malformed_event_is_dead_lettered_with_a_reason(engine, topic):
    world = FuzzWorld(engine)
    crashes, accepted = fuzz(world, topic, seed=7, events=1_500)
    assert (crashes, accepted) == ({}, 0)
    assert len(world.sender.sent) == 1_500
    reasons = Counter(world.sender.reasons)
    assert set(reasons) <= {reason.value for reason in DeadLetterReason} - {"processing_failed"}
    assert len(reasons) >= 6
    assert [world.count(table) for table in (SignalRow, ErasureRow, ServingAckRow)] == [0, 0, 0]
