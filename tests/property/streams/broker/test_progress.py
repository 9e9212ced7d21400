from hypothesis import given
from hypothesis import strategies as st

from streams.broker.progress import PartitionProgress

RUNS = st.lists(st.integers(min_value=1, max_value=4), min_size=1, max_size=8)


@given(runs=RUNS, data=st.data())
def test_the_committable_offset_never_passes_a_record_without_effect(runs, data):
    """A model that knows every record's fate agrees with the three numbers that are really kept."""
    progress = PartitionProgress()
    offset = 0
    pending: list[list[int]] = []
    without_effect: set[int] = set()
    held: set[int] = set()
    for length in runs:
        offset += data.draw(st.integers(0, 3))  # a gap
        records = list(range(offset, offset + length))
        offset += length
        progress.deliver(records[0], records[-1])
        pending.append(records)
        without_effect.update(records)
        while pending and data.draw(st.booleans()):
            settled = pending.pop(0)
            for record in settled:
                if data.draw(st.booleans()):
                    progress.hold(record)
                    held.add(record)
                else:
                    without_effect.discard(record)
            progress.settle_through(settled[-1])
        for record in sorted(held):
            if data.draw(st.booleans()):
                progress.release(record)
                held.discard(record)
                without_effect.discard(record)
        if without_effect:
            assert progress.committable <= min(without_effect)
        else:
            assert progress.committable == offset
