"""The hash chain: canonical JSON, entry digests, and the append that moves a tenant's head.

digest = SHA-256 over the canonical JSON of (tenant_id, sequence, kind, recorded_at, reservation_id, document,
previous_digest). Whoever changes, inserts or removes an entry must recompute every later digest and the
head; an exported head kept elsewhere then shows it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import and_, col, or_, select

from privacy.anchor.due import due_insert
from privacy.canonical import canonical_text, sha256_digest
from privacy.errors import LedgerIntegrityError
from privacy.ledger.tables import LedgerEntryRow, LedgerHeadRow, ReservationRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.sql.dml import Insert, Update
    from sqlmodel import Session, SQLModel

GENESIS_DIGEST: Final = "sha256:" + "0" * 64


class EntryKind(StrEnum):
    """What an entry records."""

    ACCOUNT_OPENED = "account_opened"
    RESERVED = "reserved"
    STARTED = "started"
    DRAWN = "drawn"
    LOOKED = "looked"
    COMMITTED = "committed"
    FORFEITED = "forfeited"
    RELEASED = "released"
    RECOVERED = "recovered"
    POPULATION_JOINED = "population_joined"
    RESTORED = "restored"


def canonical(value: object) -> str:
    """Return the canonical JSON of a value in the ledger's spelling, which is ASCII."""
    return canonical_text(value, ascii_only=True)


def digest_of(value: object) -> str:
    """Return the ``sha256:`` digest of a value's canonical JSON."""
    return sha256_digest(canonical(value).encode())


def entry_digest(
    *,
    tenant_id: str,
    sequence: int,
    kind: str,
    recorded_at: str,
    reservation_id: str | None,
    document: str,
    previous_digest: str,
) -> str:
    """Return the digest that chains an entry to the one before it; ``document`` is the stored text."""
    return digest_of([tenant_id, sequence, kind, recorded_at, reservation_id, document, previous_digest])


def digest_of_row(row: LedgerEntryRow) -> str:
    """Recompute the digest of a stored entry."""
    return entry_digest(
        tenant_id=row.tenant_id,
        sequence=row.sequence,
        kind=row.kind,
        recorded_at=row.recorded_at,
        reservation_id=row.reservation_id,
        document=row.document,
        previous_digest=row.previous_digest,
    )


def lock_head(session: Session, tenant_id: str) -> LedgerHeadRow:
    """Return the tenant's head, locked until the transaction ends; a new tenant gets an empty chain.

    It is always the first lock a verb takes, so two trainers of one tenant run one after the other. On
    SQLite the transaction already holds the write lock.
    """
    dialect = session.get_bind().dialect.name
    insert_quietly = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = (
        select(LedgerHeadRow)
        .where(col(LedgerHeadRow.tenant_id) == tenant_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    head = session.exec(statement).one_or_none()
    if head is None:
        empty = {"tenant_id": tenant_id, "sequence": 0, "digest": GENESIS_DIGEST}
        session.execute(insert_quietly(LedgerHeadRow).values(empty).on_conflict_do_nothing())
        head = session.exec(statement).one()
    return head


def lock_head_of(session: Session, reservation_id: str) -> LedgerHeadRow | None:
    """Return the head of a reservation's tenant, locked; ``None`` where there is no such reservation or head.

    A reservation never moves to another tenant, so the tenant may be read before the lock is held.
    """
    tenant_id = (
        select(ReservationRow.tenant_id)
        .where(col(ReservationRow.reservation_id) == reservation_id)
        .scalar_subquery()
    )
    return session.exec(
        select(LedgerHeadRow)
        .where(col(LedgerHeadRow.tenant_id) == tenant_id)
        .with_for_update(of=LedgerHeadRow)
        .execution_options(populate_existing=True)
    ).one_or_none()


def write_together(session: Session, writes: Sequence[Insert | Update]) -> None:
    """Send writes to different rows: as one statement on PostgreSQL, which saves a round trip for each of them."""
    if session.get_bind().dialect.name != "postgresql":
        for write in writes:
            session.execute(write)
        return
    *others, last = writes
    parts = [write.cte(f"write_{number}") for number, write in enumerate(others)]
    session.execute(last.add_cte(*parts) if parts else last)


def written(row: SQLModel, values: Mapping[str, Any]) -> None:
    """Show in a loaded row what ``write_together`` wrote, so that the session does not write it again."""
    for name, value in values.items():
        set_committed_value(row, name, value)


def append(
    session: Session,
    head: LedgerHeadRow,
    *,
    kind: EntryKind,
    recorded_at: datetime,
    reservation_id: str | None,
    document: dict[str, Any],
    along: Sequence[Insert | Update] = (),
) -> None:
    """Append one entry to the chain whose locked ``head`` the caller holds, and move the head.

    Args:
        session: the caller's open transaction.
        head: of the chain, locked; afterwards it names the new entry.
        kind: what the entry records.
        recorded_at: aware.
        reservation_id: whose entry it is, if anyone's.
        document: JSON-ready.
        along: writes to other rows that belong to the entry; they are sent with it.
    """
    sequence = head.sequence + 1
    moment = recorded_at.isoformat(timespec="microseconds")
    text = canonical(document)
    digest = entry_digest(
        tenant_id=head.tenant_id,
        sequence=sequence,
        kind=kind.value,
        recorded_at=moment,
        reservation_id=reservation_id,
        document=text,
        previous_digest=head.digest,
    )
    entry = insert(LedgerEntryRow.__table__).values(  # type: ignore[attr-defined]
        tenant_id=head.tenant_id,
        sequence=sequence,
        kind=kind.value,
        recorded_at=moment,
        reservation_id=reservation_id,
        document=text,
        previous_digest=head.digest,
        digest=digest,
    )
    moved = {"sequence": sequence, "digest": digest}
    heads = LedgerHeadRow.__table__  # type: ignore[attr-defined]
    write_together(
        session,
        [
            entry,
            due_insert(head.tenant_id),
            update(heads).where(heads.c.tenant_id == head.tenant_id).values(moved),
            *along,
        ],
    )
    written(head, moved)


def stored_entries(
    session: Session, places: set[tuple[str, int]], known: Iterable[LedgerEntryRow] = ()
) -> dict[tuple[str, int], LedgerEntryRow]:
    """Return the entries at (tenant, sequence) places, each with its own digest checked.

    Args:
        session: the caller's open transaction.
        places: where.
        known: entries that this transaction has read, wherever they stand; those at ``places`` are not read again.

    Raises:
        LedgerIntegrityError: an entry is missing or its digest does not match its content.
    """
    rows = [row for row in known if (row.tenant_id, row.sequence) in places]
    if left := places - {(row.tenant_id, row.sequence) for row in rows}:
        wanted = (
            and_(col(LedgerEntryRow.tenant_id) == tenant_id, col(LedgerEntryRow.sequence) == sequence)
            for tenant_id, sequence in sorted(left)
        )
        rows += session.exec(select(LedgerEntryRow).where(or_(*wanted)))
    found = {(row.tenant_id, row.sequence): row for row in rows if digest_of_row(row) == row.digest}
    if missing := sorted(places - found.keys()):
        tenant_id, sequence = missing[0]
        raise LedgerIntegrityError(
            f"entry {sequence} of tenant {tenant_id} is missing or changed; "
            "stop training for it and run `discreet budget verify`"
        )
    return found
