"""Up to where each partition has had its effects, kept with the effects.

The consumer group's own offsets lie in the broker and stay where they are when the database is restored; then reading
would go on behind events whose effects are gone. So reading begins at the lower of the two. That is never too far: an
event that comes again finds its fate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlmodel import col, select

from privacy.errors import RewoundError
from privacy.storage.upserts import insert_for, insert_ignoring_conflicts
from streams.storage.tables import ConsumedOffsetRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlmodel import Session

Partition = tuple[str, int]


def move_on(
    session: Session, offsets: Mapping[Partition, int], *, at_least: Mapping[Partition, int] | None = None
) -> None:
    """Keep the next offset of each partition; one below the stored (of a worker that came late) changes nothing.

    Args:
        session: the transaction of the effects.
        offsets: up to where they reach then.
        at_least: what the caller stored before. Where that is gone the database was set back under its hands, and a
            higher offset would hide what it lacks.

    Raises:
        RewoundError: it was.
    """
    if not offsets:
        return
    if at_least:
        found = session.exec(
            select(ConsumedOffsetRow).where(
                col(ConsumedOffsetRow.topic).in_({topic for topic, _ in at_least})
            )
        )
        held = {(row.topic, row.partition): row.next_offset for row in found}
        for (topic, partition), offset in sorted(at_least.items()):
            if held.get((topic, partition), 0) < offset:
                raise RewoundError(
                    f"partition {partition} of {topic} was consumed up to {offset} and the database no longer says so: "
                    "it was set back while this worker ran; stop all workers and trainers, run `discreet restore`, and "
                    "start them again"
                )
    insert = insert_for(session, ConsumedOffsetRow)
    statement = insert.on_conflict_do_update(
        index_elements=["topic", "partition"],
        set_={"next_offset": insert.excluded.next_offset},
        where=insert.excluded.next_offset > col(ConsumedOffsetRow.next_offset),
    )
    rows = [
        {"topic": topic, "partition": partition, "next_offset": offset}
        for (topic, partition), offset in sorted(offsets.items())
    ]
    session.connection().execute(statement, rows)


def consumed(session: Session) -> dict[Partition, int]:
    """Return the next offset of every partition that anything was read of."""
    return {(row.topic, row.partition): row.next_offset for row in session.exec(select(ConsumedOffsetRow))}


def positions_of(session: Session, topics: Collection[str]) -> list[tuple[str, int, int]]:
    """Return (topic, partition, next offset) of every partition of these topics that anything was read of."""
    return sorted((*place, offset) for place, offset in consumed(session).items() if place[0] in topics)


def read_from_the_start(session: Session, partitions: list[Partition]) -> None:
    """Read partitions of which the database knows nothing from their beginning, whatever the group's offsets say."""
    rows = [{"topic": topic, "partition": partition, "next_offset": 0} for topic, partition in partitions]
    insert_ignoring_conflicts(session, ConsumedOffsetRow, rows)
