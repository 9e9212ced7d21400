"""What every change of a collection does: lock, end versions of documents, make a signed version, write the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import func
from sqlmodel import select

from personalization.errors import MemoryDocumentError, MemoryMoveError
from personalization.memory import pgvector, versions
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import State
from personalization.memory.versions import Change, Decision
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.memory.documents import Added, Place
    from personalization.memory.sealing import MemoryKeys

MOST_DOCUMENTS: Final = 100_000  # live ones of a tenant
MOST_CHUNKS: Final = 200_000


def lock(session: Session, tenant_id: str) -> None:
    """Let nobody else change the tenant's memory until the transaction ends.

    Raises:
        UnknownTenantError: no such tenant is registered.
    """
    policies.tenant(session, tenant_id)  # says so where there is none
    policies.lock_tenant(session, tenant_id)


def begin(session: Session, keys: MemoryKeys, place: Place, decision: Decision) -> bool:
    """Lock a tenant's memory, and sign what a collection holds before its first signed change.

    Returns:
        Whether the collection holds what was signed. Of one that does not, documents are removed all the same, and
        what is left is not signed for it.

    Raises:
        MemoryMoveError: it does not, and something was to be added or accepted: that would sign the rest as well.
    """
    lock(session, place.tenant_id)
    row = session.get(MemoryCollectionRow, (place.tenant_id, place.collection))
    holds = versions.begin(session, keys, row, _change(place, decision, None))
    if not holds and decision is not Decision.REMOVED:
        raise MemoryMoveError(
            f"the collection {place.collection!r} does not hold what its signed version names, so nothing was changed; "
            "`discreet memory versions` shows what was signed last: go back to it with `discreet memory roll-back --to`"
        )
    return holds


def end(session: Session, row: MemoryDocumentRow, state: State, now: datetime) -> None:
    """Let a version of a document be found no more."""
    if pgvector.kept_here(session):
        pgvector.drop(session, row)
    row.state, row.ended_at = state, now
    session.add(row)


def touch(
    session: Session,
    keys: MemoryKeys,
    place: Place,
    decision: Decision,
    *,
    changed: bool,
    restores: int | None = None,
    signs: bool = True,
) -> int:
    """Make a signed version of a collection where it changed, and the collection where there is none.

    Args:
        session: the caller's transaction.
        keys: sign it.
        place: where.
        decision: what made it.
        changed: whether anything did.
        restores: which version a roll-back goes back to.
        signs: whether what stands may be signed; otherwise nothing is found in it until one goes back.

    Returns:
        The number of the version that holds now.
    """
    row = session.get(MemoryCollectionRow, (place.tenant_id, place.collection))
    if row is None:
        row = MemoryCollectionRow(
            tenant_id=place.tenant_id,
            collection=place.collection,
            domain=place.domain or "",
            version=versions.highest(session, place.tenant_id, place.collection),
            changed_at=place.now,
        )
    if place.domain is not None and row.domain != place.domain:
        row.domain, changed = place.domain, True
    if changed:
        row.version, row.changed_at = row.version + 1, place.now
        session.add(row)
        session.flush()
        if signs:
            versions.keep(session, keys, row, _change(place, decision, restores))
    return row.version


def check_room(session: Session, tenant_id: str) -> None:
    """Refuse what would be too much of a tenant.

    Raises:
        MemoryDocumentError: it is.
    """
    documents, chunks = session.exec(
        select(func.count(), func.coalesce(func.sum(MemoryDocumentRow.chunks), 0)).where(
            MemoryDocumentRow.tenant_id == tenant_id, MemoryDocumentRow.state == State.LIVE
        )
    ).one()
    if documents > MOST_DOCUMENTS or chunks > MOST_CHUNKS:
        raise MemoryDocumentError(
            f"the tenant would have {documents:,} documents with {chunks:,} passages; allowed are {MOST_DOCUMENTS:,} "
            f"with {MOST_CHUNKS:,}; remove what is no longer needed"
        )


def noted(session: Session, place: Place, action: str, version: int, what: Sequence[Added]) -> None:
    """Put an act into the tenant's audit trail: names and numbers, never a text."""
    detail: dict[str, object] = {
        "collection": place.collection,
        "version": version,
        "documents": [f"{one.document_id}@{one.version}" for one in what],
        "marked_accepted": [one.document_id for one in what if one.marked and one.sent],
    }
    if place.reason:
        detail["reason"] = place.reason
    audit_trail.append(
        session, place.tenant_id, actor=place.actor.strip(), action=action, detail=detail, now=place.now
    )


def _change(place: Place, decision: Decision, restores: int | None) -> Change:
    return Change(
        decision=decision,
        actor=place.actor.strip(),
        reason=place.reason,
        now=place.now,
        restores=restores,
    )
