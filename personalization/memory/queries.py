"""Read what is remembered: which documents there are, and what a live one says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from personalization.memory.sealing import content_of
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import Remembered, State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.memory.sealing import MemoryKeys


def listed(
    session: Session,
    tenant_id: str,
    collection: str | None = None,
    *,
    tried: bool = False,
    ended: bool = False,
) -> Sequence[MemoryDocumentRow]:
    """Return a tenant's documents by collection and name: the live ones, candidates' too, or all there ever were."""
    query = select(MemoryDocumentRow).where(MemoryDocumentRow.tenant_id == tenant_id)
    if collection is not None:
        query = query.where(MemoryDocumentRow.collection == collection)
    if not ended:
        wanted = (State.LIVE, State.CANDIDATE) if tried else (State.LIVE,)
        query = query.where(col(MemoryDocumentRow.state).in_(wanted))
    order = (MemoryDocumentRow.collection, MemoryDocumentRow.document_id, MemoryDocumentRow.version)
    return session.exec(query.order_by(*(col(one) for one in order))).all()


def collections(session: Session, tenant_id: str) -> Sequence[MemoryCollectionRow]:
    """Return a tenant's collections by name."""
    query = select(MemoryCollectionRow).where(MemoryCollectionRow.tenant_id == tenant_id)
    return session.exec(query.order_by(col(MemoryCollectionRow.collection))).all()


def standing(session: Session, tenant_id: str, collection: str) -> tuple[int, str]:
    """Return the version of a collection and the domain that it is for; version 0 where there is none."""
    found = session.exec(
        select(MemoryCollectionRow.version, MemoryCollectionRow.domain).where(
            MemoryCollectionRow.tenant_id == tenant_id, MemoryCollectionRow.collection == collection
        )
    ).first()
    return (0, "") if found is None else (found[0], found[1])


def size_of(session: Session, tenant_id: str, collection: str, now: datetime) -> dict[str, Any]:
    """Return how much a collection holds, how many of its documents have ended, and since when the oldest counts."""
    rows = listed(session, tenant_id, collection)
    ended = [row for row in rows if row.valid_until is not None and row.valid_until <= now]
    return {
        "documents": len(rows),
        "passages": sum(row.chunks for row in rows),
        "marked": sum(row.marked for row in rows if not row.accepted),
        "expired": len(ended),
        "oldest": min((row.added_at.isoformat() for row in rows), default=None),
    }


def tenants_with_memory(session: Session) -> dict[str, frozenset[str]]:
    """Return the domains that each tenant with collections has them for; an empty name stands for every domain."""
    found: dict[str, set[str]] = {}
    rows = session.exec(select(MemoryCollectionRow.tenant_id, MemoryCollectionRow.domain))
    for tenant_id, domain in rows:
        found.setdefault(tenant_id, set()).add(domain)
    return {tenant_id: frozenset(domains) for tenant_id, domains in found.items()}


def opened(row: MemoryDocumentRow, keys: MemoryKeys) -> Remembered:
    """Return a live row's document.

    Raises:
        KeyUnavailableError: it was sealed with another key, or moved.
    """
    title, source, chunks = content_of(keys.open(row.sealed or b"", row.tenant_id, *row_name(row)))
    return Remembered(
        collection=row.collection,
        document_id=row.document_id,
        version=row.version,
        title=title,
        source=source,
        chunks=chunks,
        added_at=row.added_at,
        valid_until=row.valid_until,
        accepted=row.accepted,
    )


def facts_of(row: MemoryDocumentRow, known: Remembered | None) -> dict[str, Any]:
    """Return a version as JSON has it, without what it says; ``known`` is it opened, while it is live."""
    return {
        "collection": row.collection,
        "id": row.document_id,
        "version": row.version,
        "state": row.state,
        "title": "" if known is None else known.title,
        "source": "" if known is None else known.source,
        "sha256": row.digest.removeprefix("sha256:"),
        "approved_by": row.approved_by,
        "added_at": row.added_at.isoformat(),
        "valid_until": row.valid_until.isoformat() if row.valid_until else None,
        "passages": row.chunks,
        "marked": row.marked,
        "marked_accepted": row.accepted,
    }


def row_name(row: MemoryDocumentRow) -> tuple[str, str, str]:
    """Return what a sealed value is bound to beside its tenant."""
    return row.collection, row.document_id, str(row.version)
