"""Which offset of a partition may be committed: the one after everything before it has had its effect.

Records of one partition are delivered and settled in order; single records may be *held* (a consent is
awaited) while later ones are settled. The committable offset never passes a held or unsettled record,
whatever the numbers in between: gaps in the offsets (compaction, transaction markers) mean nothing here,
because only delivered records count. Faust's own rule compares numbers and can pass an in-flight record; it
is not used.
"""

from __future__ import annotations


class PartitionProgress:
    """What was delivered, settled and held of one partition since it was assigned (or last re-read).

    A new assignment makes a new object. Whoever still holds records of the old one settles into the void:
    those records are delivered again and recognised by their event id.
    """

    __slots__ = ("_delivered", "_held", "_settled", "abandoned", "stored")

    def __init__(self) -> None:
        self.abandoned = False  # given up or read again: whoever holds its records drops them
        self.stored: int | None = None  # what the database was given and has committed
        self._delivered: int | None = None  # offset after the last delivered record
        self._settled: int | None = None  # offset after the last settled record, held ones aside
        self._held: set[int] = set()

    def deliver(self, first: int, last: int) -> None:
        """Note that the records from ``first`` to ``last`` were handed over for processing."""
        if self._delivered is not None and first < self._delivered:
            raise ValueError(f"offset {first} was delivered before; the next is {self._delivered} or later")
        if self._settled is None:
            self._settled = first
        self._delivered = last + 1

    def settle_through(self, offset: int) -> None:
        """Note that every delivered record up to ``offset``, held ones aside, has had its effect."""
        if self._settled is None or self._delivered is None or offset >= self._delivered:
            raise ValueError(f"offset {offset} was not delivered")
        self._settled = max(self._settled, offset + 1)

    def hold(self, offset: int) -> None:
        """Keep ``offset`` from being committed until it is released."""
        self._held.add(offset)

    def release(self, offset: int) -> None:
        """Note that a held record has had its effect."""
        self._held.discard(offset)

    @property
    def committable(self) -> int | None:
        """Offset that may be committed, or ``None`` when nothing was delivered."""
        if self._held:
            lowest = min(self._held)
            return lowest if self._settled is None else min(lowest, self._settled)
        return self._settled

    def committable_after(self, last: int | None, *, freed: set[int], held: set[int]) -> int | None:
        """Return what may be committed once more has happened than is noted here.

        Args:
            last: every record up to this offset, held ones aside, has had its effect.
            freed: held records that have had it too.
            held: records that are held besides.
        """
        settled = self._settled
        if last is not None:
            settled = last + 1 if settled is None else max(settled, last + 1)
        waiting = (self._held - freed) | held
        if settled is None or not waiting:
            return settled if not waiting else min(waiting)
        return min(settled, *waiting)

    @property
    def settled_to(self) -> int | None:
        """Offset after the last settled record, held ones aside; ``None`` when nothing was delivered."""
        return self._settled
