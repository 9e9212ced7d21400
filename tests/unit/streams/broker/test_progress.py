import pytest

from streams.broker.progress import PartitionProgress


def test_nothing_may_be_committed_before_anything_is_settled():
    progress = PartitionProgress()
    assert progress.committable is None
    progress.deliver(31, 33)
    assert progress.committable == 31


def test_a_held_record_keeps_later_settled_ones_from_being_committed():
    progress = PartitionProgress()
    progress.deliver(31, 33)
    progress.hold(31)
    progress.settle_through(33)
    assert progress.committable == 31
    progress.release(31)
    assert progress.committable == 34


def test_gaps_in_the_offsets_mean_nothing():
    progress = PartitionProgress()
    progress.deliver(10, 10)
    progress.settle_through(10)
    progress.deliver(15, 20)  # 11 to 14 were compacted away
    assert progress.committable == 11
    progress.settle_through(20)
    assert progress.committable == 21


def test_a_record_cannot_be_settled_before_it_was_delivered_nor_delivered_twice():
    progress = PartitionProgress()
    progress.deliver(0, 4)
    with pytest.raises(ValueError, match="5 was not delivered"):
        progress.settle_through(5)
    with pytest.raises(ValueError, match="delivered before"):
        progress.deliver(4, 6)
