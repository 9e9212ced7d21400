"""What a batch stores as consumed never passes a record without its effect."""

from __future__ import annotations

from streams.broker.progress import PartitionProgress
from streams.ingest.offsets import BatchOffsets


def progress(first, last, *, settled=None, held=()):
    made = PartitionProgress()
    made.deliver(first, last)
    if settled is not None:
        made.settle_through(settled)
    for offset in held:
        made.hold(offset)
    return made


def test_a_batch_of_effects_moves_to_its_end_and_one_with_letters_not_at_all():
    offsets = BatchOffsets("t", {0: progress(10, 29, settled=19), 1: progress(5, 9)}, {0: 29, 1: 9})
    assert offsets.before() == {("t", 0): 20, ("t", 1): 5}
    assert offsets.after(set()) == {("t", 0): 30, ("t", 1): 10}


def test_what_is_held_holds_the_offset_and_what_is_freed_lets_it_go():
    waiting = progress(10, 29, settled=19, held=(12, 15))
    offsets = BatchOffsets("t", {0: waiting}, {0: 29}, {(0, 12)})
    assert offsets.before() == {("t", 0): 12}
    assert offsets.after(set()) == {("t", 0): 15}  # 12 was freed; 15 was not asked about
    assert offsets.after({(0, 12)}) == {("t", 0): 12}  # it waits on
    assert offsets.after({(0, 25), (1, 1)}) == {("t", 0): 15}
    alone = BatchOffsets("t", {0: progress(10, 29, settled=29, held=(12,))}, {}, {(0, 12)})
    assert alone.after(set()) == {("t", 0): 30}
    fresh = BatchOffsets("t", {0: progress(10, 19)}, {0: 19})
    assert fresh.after({(0, 14)}) == {("t", 0): 14}


def test_a_partition_of_which_nothing_was_delivered_stores_nothing():
    offsets = BatchOffsets("t", {0: PartitionProgress()})
    assert offsets.before() == offsets.after(set()) == {}
