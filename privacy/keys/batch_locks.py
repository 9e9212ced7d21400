"""Who stores something of a tenant's users, and who erases one of them, wait for each other; other tenants do not.

Batches share a lock until they commit and an erasure has it alone, so an erasure waits for the batches under way and
then sees their rows, and a batch that comes after it sees that the user is gone. PostgreSQL's advisory locks queue
fairly: batches that keep coming never keep an erasure waiting. It keeps each lock of each transaction in shared memory,
so there are ``LOCKS`` of them for all tenants (a tenant shares one with few others), however many a batch holds.

Whoever needs several takes them at once and before anything else (``numbers`` sorts them): an erasure waits for this
lock and then for rows, so whoever took rows first and this lock after them would wait for the erasure while it waits
for the rows. SQLite has one writer at a time and needs none of it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import TextClause
    from sqlmodel import Session

LOCKS: Final = 128  # of 64 transactions at once they fit in the room that PostgreSQL has by default
_SPACE: Final = 7_243_002  # first half of the advisory locks' numbers on PostgreSQL; any number of ours

_EACH = " FROM unnest(CAST(:numbers AS int[])) AS number"
_JOIN = text(f"SELECT pg_advisory_xact_lock_shared({_SPACE}, number){_EACH}")
_LOCK_OUT = text(f"SELECT pg_advisory_xact_lock({_SPACE}, number){_EACH}")


def join_batches(session: Session, tenant_ids: Iterable[str]) -> None:
    """Wait for erasures of these tenants under way and hold off new ones until this transaction ends."""
    _take(session, _JOIN, tenant_ids)


def lock_out_batches(session: Session, tenant_ids: Iterable[str]) -> None:
    """Wait for batches of these tenants under way and hold off new ones until this transaction ends."""
    _take(session, _LOCK_OUT, tenant_ids)


def numbers(tenant_ids: Iterable[str]) -> list[int]:
    """Return the locks of these tenants, each once, in the order in which everybody takes them."""
    return sorted({zlib.crc32(tenant_id.encode()) % LOCKS for tenant_id in set(tenant_ids)})


def _take(session: Session, statement: TextClause, tenant_ids: Iterable[str]) -> None:
    if session.get_bind().dialect.name != "postgresql":
        return
    if wanted := numbers(tenant_ids):
        session.connection().execute(statement, {"numbers": wanted})
