"""The slots that fates lie in, by age: forgetting the oldest costs the same however many fates it holds.

On PostgreSQL the table of fates has a partition for each slot. All batches write to the one that is open; after a while
(``LIFE`` of the time that fates are kept) it is closed and the next one opened, and a slot that has been closed for as
long as fates are kept is emptied by TRUNCATE: no row is deleted, nothing is left to vacuum, no index over the time is
needed. A partition's key holds within the partition only, so that no event gets two fates rests on this: a batch
shares a lock from its first look at the fates until it commits, and who turns the slots has it alone. All batches that
run beside each other therefore write to the same slot, where its key keeps them apart, and a batch that writes to a new
slot sees every fate in the old ones.

SQLite has one slot; there old fates go row by row, in small transactions (``streams.ingest.fates.forget``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import func, text, update
from sqlmodel import col, select

from streams.ingest.tables import FateSlotRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Table
    from sqlmodel import Session

SLOTS: Final = 8
LIFE: Final = 1 / (SLOTS - 2)  # one slot is open, one may be on its way out, and the others are kept
_TABLE: Table = FateSlotRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
_LOCK: Final = 7_243_003  # advisory lock number on PostgreSQL; any number of ours
_KNOWN: Final = "discreet.fate_slots"
_PATIENCE: Final = "2s"  # for batches under way; new ones wait meanwhile


class Slots(NamedTuple):
    """Where fates lie.

    Attributes:
        current: number of the slot that takes new ones.
        used: numbers of all that may hold some.
    """

    current: int
    used: Sequence[int]


_ONLY: Final = Slots(0, (0,))


def held_slots(session: Session) -> Slots:
    """Return the slots, which stay as they are until this transaction ends."""
    if session.get_bind().dialect.name != "postgresql":
        return _ONLY
    known: Slots | None = session.info.get(_KNOWN)
    if known is None:
        session.exec(select(func.pg_advisory_xact_lock_shared(_LOCK)))
        # In a statement of its own: what it sees is what was committed when the lock was ours.
        known = session.info[_KNOWN] = _slots(session)
    return known


def turn_slots(session: Session, now: datetime, keep: timedelta) -> int:
    """Empty the slots whose fates are all older than ``keep``, open the next one in time; return how many were emptied.

    Waits for the batches under way, and new ones wait for it; it gives up before that becomes long.

    Args:
        session: inside a transaction that does nothing else, on PostgreSQL.
        now: the clock.
        keep: how long fates are kept at least.
    """
    connection = session.connection()
    connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE}'"))
    session.exec(select(func.pg_advisory_xact_lock(_LOCK)))
    rows = {row.slot: row for row in session.exec(select(FateSlotRow))}
    old = [row for row in rows.values() if row.closed_at is not None and row.closed_at <= now - keep]
    for row in old:
        connection.execute(text(f"TRUNCATE {slot_table(row.slot)}"))
        _set(session, row.slot, opened_at=None, closed_at=None)
    session.expire_all()
    current = rows[_slots(session).current]
    following = rows[(current.slot + 1) % SLOTS]
    full = current.opened_at is not None and current.opened_at <= now - keep * LIFE
    if full and following.opened_at is None:
        _set(session, current.slot, closed_at=now)
        _set(session, following.slot, opened_at=now)
    return len(old)


def slot_table(slot: int) -> str:
    """Return the name of the partition of a slot."""
    return f"processed_events_{slot:d}"


def _slots(session: Session) -> Slots:
    rows = session.exec(
        select(FateSlotRow.slot, FateSlotRow.closed_at).where(col(FateSlotRow.opened_at).is_not(None))
    ).all()
    (current,) = (slot for slot, closed_at in rows if closed_at is None)
    return Slots(current, sorted(slot for slot, _ in rows))


def _set(session: Session, slot: int, **values: Any) -> None:
    session.connection().execute(update(_TABLE).where(_TABLE.c.slot == slot).values(**values))
