"""What every change of a collection does: lock, write and end versions of documents, sign what stands, audit it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import func
from sqlmodel import col, select

from personalization.errors import MemoryDocumentError, MemoryMoveError
from personalization.memory import candidates, pgvector, versions
from personalization.memory.queries import row_name
from personalization.memory.sealing import content_bytes, vectors_of
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import State
from personalization.memory.versions import Change, Decision
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.memory.candidates import Candidate
    from personalization.memory.documents import Added, Place, Prepared
    from personalization.memory.sealing import MemoryKeys

MOST_DOCUMENTS: Final = 100_000  # live ones of a tenant, with those of candidates
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
    holds = versions.begin(session, keys, row, change_of(place, decision))
    if not holds and decision is not Decision.REMOVED:
        raise MemoryMoveError(
            f"the collection {place.collection!r} does not hold what its signed version names, so nothing was changed; "
            "`discreet memory versions` shows what was signed last: go back to it with `discreet memory roll-back --to`"
        )
    return holds


def require_each_once(documents: Sequence[Prepared]) -> None:
    """Refuse a list that holds a document twice.

    Raises:
        MemoryDocumentError: it does.
    """
    names = [one.draft.document_id for one in documents]
    if len(set(names)) != len(names):
        raise MemoryDocumentError(
            "a document id stands twice among what is added; give each document its own"
        )


def says(row: MemoryDocumentRow, one: Prepared) -> bool:
    """Say whether a version is what a draft would make of it."""
    return (
        row.digest == one.digest
        and row.valid_until == one.draft.valid_until
        and (row.accepted or not one.draft.accept_marked)  # who accepted the same words has read them
        and row.embedder == one.embedder
    )


def write(session: Session, keys: MemoryKeys, place: Place, one: Prepared, state: State) -> MemoryDocumentRow:
    """Store the next version of a document, sealed; what it takes the place of has ended before."""
    draft = one.draft
    newest = versions.highest_of_document(session, place.tenant_id, place.collection, draft.document_id)
    row = MemoryDocumentRow(
        tenant_id=place.tenant_id,
        collection=place.collection,
        document_id=draft.document_id,
        version=newest + 1,
        state=state,
        digest=one.digest,
        approved_by=place.actor.strip(),
        added_at=place.now,
        valid_until=draft.valid_until,
        chunks=len(one.chunks),
        marked=sum(bool(chunk.marks) for chunk in one.chunks),
        accepted=draft.accept_marked,
        embedder=one.embedder,
    )
    name = row_name(row)
    row.sealed = keys.seal(content_bytes(one.title, draft.source, one.chunks), place.tenant_id, *name)
    if one.vectors is not None:
        row.vectors = keys.seal(one.vectors, place.tenant_id, *name, "vectors")
    session.add(row)
    if one.vectors is not None and pgvector.kept_here(session):
        pgvector.put(session, row, one.chunks, vectors_of(one.vectors, len(one.chunks)))
    return row


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
) -> tuple[int, bool]:
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
        The number of the version that holds now, and whether a text was given up for it, being too old or too much.
    """
    gave_up = False
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
        row.version = candidates.next_number(session, place.tenant_id, place.collection, row.version)
        row.changed_at = place.now
        session.add(row)
        session.flush()
        if signs:
            gave_up = versions.keep(session, keys, row, change_of(place, decision, restores))
    return row.version, gave_up


def leave(session: Session, place: Place, candidate: Candidate) -> None:
    """Let nobody be answered from a candidate any more, and delete what its documents say."""
    for row in candidates.documents_of(session, place.tenant_id, place.collection):
        end(session, row, State.SUPERSEDED, place.now)
        versions.emptied(session, row)
    session.flush()
    candidates.decided(
        session, place.tenant_id, replace(candidate, percent=0.0), change_of(place, Decision.ABANDONED)
    )


def lessen(session: Session, keys: MemoryKeys, place: Place, candidate: Candidate) -> None:
    """Sign what a removal of documents left of a candidate, or leave it where that is nothing."""
    session.flush()
    if not candidates.documents_of(session, place.tenant_id, place.collection):
        leave(session, place, candidate)
        return
    row = session.get(MemoryCollectionRow, (place.tenant_id, place.collection))
    candidates.tried(
        session,
        keys,
        place.tenant_id,
        place.collection,
        change_of(place, Decision.REMOVED),
        version=0 if row is None else row.version,
        percent=candidate.percent,
        salt=candidate.salt,
    )


def check_room(session: Session, tenant_id: str) -> None:
    """Refuse what would be too much of a tenant.

    Raises:
        MemoryDocumentError: it is.
    """
    documents, chunks = session.exec(
        select(func.count(), func.coalesce(func.sum(MemoryDocumentRow.chunks), 0)).where(
            MemoryDocumentRow.tenant_id == tenant_id,
            col(MemoryDocumentRow.state).in_((State.LIVE, State.CANDIDATE)),
        )
    ).one()
    if documents > MOST_DOCUMENTS or chunks > MOST_CHUNKS:
        raise MemoryDocumentError(
            f"the tenant would have {documents:,} documents with {chunks:,} passages; allowed are {MOST_DOCUMENTS:,} "
            f"with {MOST_CHUNKS:,}; remove what is no longer needed"
        )


def noted(
    session: Session, place: Place, action: str, version: int, what: Sequence[Added], **more: float
) -> None:
    """Put an act into the tenant's audit trail: names and numbers, never a text."""
    detail: dict[str, object] = {
        "collection": place.collection,
        "version": version,
        "documents": [f"{one.document_id}@{one.version}" for one in what],
        "marked_accepted": [one.document_id for one in what if one.marked and one.sent],
        **more,
    }
    if place.reason:
        detail["reason"] = place.reason
    audit_trail.append(
        session, place.tenant_id, actor=place.actor.strip(), action=action, detail=detail, now=place.now
    )


def change_of(place: Place, decision: Decision, restores: int | None = None) -> Change:
    """Return who decides what, where and when."""
    return Change(
        decision=decision,
        actor=place.actor.strip(),
        reason=place.reason,
        now=place.now,
        restores=restores,
    )
