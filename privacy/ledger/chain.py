"""The hash chain: canonical JSON, entry digests, and the append that moves a tenant's head.

digest = SHA-256 over the canonical JSON of (tenant_id, sequence, kind, recorded_at, reservation_id, document,
previous_digest). Whoever changes, inserts or removes an entry must recompute every later digest and the
head; an exported head kept elsewhere then shows it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import and_, col, or_, select

from privacy.canonical import canonical_text, sha256_digest
from privacy.errors import LedgerIntegrityError
from privacy.ledger.tables import LedgerEntryRow, LedgerHeadRow

if TYPE_CHECKING:
    from datetime import datetime

    from sqlmodel import Session

GENESIS_DIGEST: Final = "sha256:" + "0" * 64


class EntryKind(StrEnum):
    """What an entry records."""

    ACCOUNT_OPENED = "account_opened"
    RESERVED = "reserved"
    STARTED = "started"
    DRAWN = "drawn"
    COMMITTED = "committed"
    FORFEITED = "forfeited"
    RELEASED = "released"
    RECOVERED = "recovered"
    POPULATION_JOINED = "population_joined"


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
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = (
        select(LedgerHeadRow)
        .where(col(LedgerHeadRow.tenant_id) == tenant_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    head = session.exec(statement).one_or_none()
    if head is None:
        empty = {"tenant_id": tenant_id, "sequence": 0, "digest": GENESIS_DIGEST}
        session.execute(insert(LedgerHeadRow).values(empty).on_conflict_do_nothing())
        head = session.exec(statement).one()
    return head


def append(
    session: Session,
    head: LedgerHeadRow,
    *,
    kind: EntryKind,
    recorded_at: datetime,
    reservation_id: str | None,
    document: dict[str, Any],
) -> LedgerEntryRow:
    """Append one entry to the chain whose locked ``head`` the caller holds, and move the head."""
    sequence = head.sequence + 1
    moment = recorded_at.isoformat(timespec="microseconds")
    text = canonical(document)
    entry = LedgerEntryRow(
        tenant_id=head.tenant_id,
        sequence=sequence,
        kind=kind.value,
        recorded_at=moment,
        reservation_id=reservation_id,
        document=text,
        previous_digest=head.digest,
        digest=entry_digest(
            tenant_id=head.tenant_id,
            sequence=sequence,
            kind=kind.value,
            recorded_at=moment,
            reservation_id=reservation_id,
            document=text,
            previous_digest=head.digest,
        ),
    )
    session.add(entry)
    head.sequence, head.digest = sequence, entry.digest
    session.add(head)
    return entry


def stored_entries(session: Session, places: set[tuple[str, int]]) -> dict[tuple[str, int], LedgerEntryRow]:
    """Return the entries at (tenant, sequence) places, each with its own digest checked.

    Raises:
        LedgerIntegrityError: an entry is missing or its digest does not match its content.
    """
    rows = session.exec(
        select(LedgerEntryRow).where(
            or_(
                *(
                    and_(col(LedgerEntryRow.tenant_id) == tenant_id, col(LedgerEntryRow.sequence) == sequence)
                    for tenant_id, sequence in sorted(places)
                )
            )
        )
    )
    found = {(row.tenant_id, row.sequence): row for row in rows if digest_of_row(row) == row.digest}
    if missing := sorted(places - found.keys()):
        tenant_id, sequence = missing[0]
        raise LedgerIntegrityError(
            f"entry {sequence} of tenant {tenant_id} is missing or changed; "
            "stop training for it and run `discreet budget verify`"
        )
    return found
