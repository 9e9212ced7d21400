"""Up to where the partitions of a batch may be stored as consumed, in the transaction of the batch's effects.

Where every record of the batch has its effect in the transaction, that is the end of the batch. Where a record is to
be dead-lettered it is what was settled before the batch: the letter is written after the transaction, and a crash in
between must bring the record back, which then finds its mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from streams.broker.progress import PartitionProgress

Place = tuple[int, int]
"""Partition and offset of a record."""


@dataclass(slots=True)
class BatchOffsets:
    """What a batch of one topic settles.

    Attributes:
        topic: its name.
        progress: of each partition that the batch has records of.
        last: offset of the last new record of a partition.
        waited: records of the batch that were held before it.
    """

    topic: str
    progress: dict[int, PartitionProgress] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    waited: set[Place] = field(default_factory=set)

    def stored(self) -> Mapping[tuple[str, int], int]:
        """Return what earlier batches have stored."""
        return {
            (self.topic, partition): progress.stored
            for partition, progress in self.progress.items()
            if progress.stored is not None
        }

    def committed(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Note that the transaction that stored ``offsets`` is committed."""
        for (_, partition), offset in offsets.items():
            progress = self.progress[partition]
            progress.stored = max(offset, progress.stored or 0)

    def before(self) -> Mapping[tuple[str, int], int]:
        """Return what may be stored whatever becomes of the batch."""
        return {
            (self.topic, partition): offset
            for partition, progress in self.progress.items()
            if (offset := progress.committable) is not None
        }

    def after(self, held: Collection[Place]) -> Mapping[tuple[str, int], int]:
        """Return what may be stored when all of the batch but ``held`` has had its effect."""
        found = {}
        for partition, progress in self.progress.items():
            offset = progress.committable_after(
                self.last.get(partition),
                freed={offset for at, offset in self.waited if at == partition and (at, offset) not in held},
                held={offset for at, offset in held if at == partition},
            )
            if offset is not None:
                found[self.topic, partition] = offset
        return found
