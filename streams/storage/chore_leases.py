"""Leases of periodic work: of many workers one does it, and another one goes on when that one is gone."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlmodel import col

from privacy.storage.upserts import insert_for
from streams.storage.tables import ChoreLeaseRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session


def take_lease(session: Session, chore: str, owner: str, *, now: datetime, seconds: float) -> bool:
    """Take the lease of a chore until ``seconds`` from now, or move its end; False while it is somebody else's.

    Args:
        session: inside a transaction that lasts no longer than this.
        chore: which work.
        owner: names this process.
        now: the clock.
        seconds: how long, from ``now``.
    """
    insert = insert_for(session, ChoreLeaseRow)
    free = (col(ChoreLeaseRow.expires_at) <= now) | (col(ChoreLeaseRow.owner) == owner)
    row = {"chore": chore, "owner": owner, "expires_at": now + timedelta(seconds=seconds)}
    statement = insert.on_conflict_do_update(
        index_elements=["chore"],
        set_={name: insert.excluded[name] for name in ("owner", "expires_at")},
        where=free,
    ).returning(col(ChoreLeaseRow.chore))
    return session.connection().execute(statement, row).first() is not None
