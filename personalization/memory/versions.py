"""Versions of a collection: which documents stood in it, by whom and why, signed; kept as what each one changed.

A version lists each document by name, number, digest, who approved it and how long it counts; no text. What is signed
covers a document by its *leaf*, the digest of all that with a random salt. Digest and salt go with the text, so the
signature of an old version still holds after a removal, and nobody can try out guesses at what was removed.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog
from sqlalchemy import exists, func
from sqlmodel import col, delete, select, update

from personalization.memory.tables import (
    MemoryCollectionRow,
    MemoryDocumentRow,
    MemoryEntryRow,
    MemoryVersionRow,
)
from personalization.memory.values import State
from privacy.canonical import canonical_json, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.memory.sealing import MemoryKeys

_log = structlog.get_logger(__name__)
FORMAT: Final = "discreet.memory-collection.v1"
KEPT: Final = 50  # versions of a collection before the newest that one can go back to
MOST_KEPT_PASSAGES: Final = 200_000  # of a tenant's documents that are kept for it; the oldest go first
SALT_BYTES: Final = 16
Leaf = tuple[str, int, str]  # document, version, leaf


class Decision(StrEnum):
    """What made a version of a collection, or what was decided about its candidate."""

    FOUND = "found"  # it was there before versions were signed
    ADDED = "added"
    REMOVED = "removed"
    ACCEPTED = "accepted"  # somebody read passages that look like orders
    ROLLED_BACK = "rolled_back"
    TRIED = "tried"  # a share of the subjects is answered from a candidate
    PROMOTED = "promoted"  # everybody is
    ABANDONED = "abandoned"  # nobody is any more


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a new version is and who makes it.

    Attributes:
        decision: in a word.
        actor: who.
        reason: why, in one public sentence.
        now: aware UTC.
        restores: which version a roll-back goes back to.
    """

    decision: Decision
    actor: str
    reason: str
    now: datetime
    restores: int | None = None


def leaf_of(row: MemoryDocumentRow, *, accepted: bool | None = None) -> str:
    """Return what of a live document's row the signature of its collection covers.

    Args:
        row: the document's.
        accepted: whether its marked passages are sent, where that is to be another than the row's.
    """
    return digest_of(
        {
            "salt": row.salt or "",
            "document_id": row.document_id,
            "version": row.version,
            "sha256": row.digest,
            "approved_by": row.approved_by,
            "valid_from": row.added_at.astimezone(UTC).isoformat(),
            "valid_until": row.valid_until.astimezone(UTC).isoformat() if row.valid_until else None,
            "accepted": row.accepted if accepted is None else accepted,
        }
    )


def version_id_of(domain: str, leaves: Iterable[Leaf]) -> str:
    """Return the ``sha256:`` digest of what stands in a collection."""
    return digest_of({"format": FORMAT, "domain": domain, "documents": sorted(leaves)})


def signed_bytes(tenant_id: str, collection: str, number: int, version_id: str) -> bytes:
    """Return what is signed: the content together with whose and which version it is."""
    return canonical_json(
        {
            "format": FORMAT,
            "tenant_id": tenant_id,
            "collection": collection,
            "number": number,
            "version_id": version_id,
        }
    )


def begin(session: Session, keys: MemoryKeys, row: MemoryCollectionRow | None, change: Change) -> bool:
    """Sign what stands in a collection of which nothing was ever signed, before a change, so that one can go back.

    Returns:
        Whether what stands is what was signed: else a change must not sign it.
    """
    if row is None or row.version < 1:
        return True
    if not stands(session, keys, row):
        return False
    if find(session, row.tenant_id, row.collection, row.version) is None:
        _keep(
            session,
            keys,
            row,
            Change(decision=Decision.FOUND, actor=change.actor, reason="as it was found", now=change.now),
        )
    return True


def stands(session: Session, keys: MemoryKeys, row: MemoryCollectionRow) -> bool:
    """Say whether the live documents of a collection are those of its signed version; see ``refused``."""
    live = _live_of(session, row)
    leaves = {row.collection: [(one.document_id, one.version, leaf_of(one)) for one in live]}
    standing = [(row.collection, row.domain, row.version)]
    return not refused(session, keys, row.tenant_id, standing, leaves)


def keep(session: Session, keys: MemoryKeys, row: MemoryCollectionRow, change: Change) -> bool:
    """Sign and store the version that a locked collection has now, and forget what is too old to go back to.

    Returns:
        Whether a text was given up.
    """
    _keep(session, keys, row, change)
    oldest = oldest_kept(session, row.tenant_id, row.collection)
    forgot = _forget_old(session, row.tenant_id, row.collection, oldest)
    return _make_room(session, row.tenant_id) or forgot


def find(session: Session, tenant_id: str, collection: str, number: int) -> MemoryVersionRow | None:
    """Return a version; ``None`` where none of that number was signed."""
    return session.get(MemoryVersionRow, (tenant_id, collection, number))


def oldest_kept(session: Session, tenant_id: str, collection: str) -> int:
    """Return the number of the oldest version that one can go back to; 0 while all are kept.

    Versions are counted, not numbers, of which candidates have some.
    """
    numbers = select(MemoryVersionRow.number).where(
        MemoryVersionRow.tenant_id == tenant_id, MemoryVersionRow.collection == collection
    )
    newest_first = numbers.order_by(col(MemoryVersionRow.number).desc())
    return session.exec(newest_first.offset(KEPT).limit(1)).first() or 0


def highest(session: Session, tenant_id: str, collection: str) -> int:
    """Return the highest number of a version that was ever signed; 0 where none was.

    Versions outlive their collection where a process from before there were any forgot the tenant.
    """
    found = session.exec(
        select(func.max(MemoryVersionRow.number)).where(
            MemoryVersionRow.tenant_id == tenant_id, MemoryVersionRow.collection == collection
        )
    ).one()
    return found or 0


def highest_of_document(session: Session, tenant_id: str, collection: str, document_id: str) -> int:
    """Return the highest number that a document ever had, in its rows or in a version of its collection."""
    numbers = (
        select(func.max(table.version))
        .where(table.tenant_id == tenant_id, table.collection == collection, table.document_id == document_id)
        .scalar_subquery()
        for table in (MemoryDocumentRow, MemoryEntryRow)
    )
    return max(number or 0 for number in session.exec(select(*numbers)).one())


def holds(keys: MemoryKeys, row: MemoryVersionRow, domain: str, leaves: Iterable[Leaf]) -> bool:
    """Say whether a key of memory signed that these documents are what stands in a version."""
    payload = signed_bytes(row.tenant_id, row.collection, row.number, row.version_id)
    return version_id_of(domain, leaves) == row.version_id and keys.vouched(
        row.key_id, row.signature, payload
    )


def refused(
    session: Session,
    keys: MemoryKeys,
    tenant_id: str,
    standing: Iterable[tuple[str, str, int]],
    leaves: Mapping[str, Sequence[Leaf]],
) -> frozenset[str]:
    """Return the collections whose live documents are not those of their signed version; nothing is found in them.

    A collection of which no version was ever signed is from before there were versions, and counts.

    Args:
        session: reads one state of the database.
        keys: verify.
        tenant_id: whose.
        standing: collection, domain and version of each.
        leaves: of the live documents, by collection.
    """
    found = set()
    signed = {
        (row.collection, row.number): row
        for row in session.exec(
            select(MemoryVersionRow)
            .join(
                MemoryCollectionRow,
                (col(MemoryCollectionRow.tenant_id) == col(MemoryVersionRow.tenant_id))
                & (col(MemoryCollectionRow.collection) == col(MemoryVersionRow.collection))
                & (col(MemoryCollectionRow.version) == col(MemoryVersionRow.number)),
            )
            .where(MemoryVersionRow.tenant_id == tenant_id)
        )
    }
    ever = set(
        session.exec(
            select(MemoryVersionRow.collection).where(MemoryVersionRow.tenant_id == tenant_id).distinct()
        )
    )
    for collection, domain, number in standing:
        row = signed.get((collection, number))
        fine = collection not in ever if row is None else holds(keys, row, domain, leaves.get(collection, ()))
        if not fine:
            _log.warning(
                "memory_collection_not_signed",
                tenant=tenant_id,
                collection=collection,
                collection_version=number,
            )
            found.add(collection)
    return frozenset(found)


def forget(session: Session, tenant_id: str) -> None:
    """Delete every version of a tenant that leaves."""
    connection = session.connection()
    connection.execute(delete(MemoryEntryRow).where(col(MemoryEntryRow.tenant_id) == tenant_id))
    connection.execute(delete(MemoryVersionRow).where(col(MemoryVersionRow.tenant_id) == tenant_id))


def _keep(session: Session, keys: MemoryKeys, row: MemoryCollectionRow, change: Change) -> None:
    session.flush()
    live = _live_of(session, row)
    for one in live:
        if not one.salt:
            one.salt = secrets.token_hex(SALT_BYTES)
            session.add(one)
    leaves = {(one.document_id, one.version): leaf_of(one) for one in live}
    accepted = {(one.document_id, one.version): one.accepted for one in live}
    held = session.exec(
        select(MemoryEntryRow).where(
            MemoryEntryRow.tenant_id == row.tenant_id,
            MemoryEntryRow.collection == row.collection,
            col(MemoryEntryRow.until).is_(None),
        )
    ).all()
    same = set()
    for entry in held:
        if leaves.get((entry.document_id, entry.version)) == entry.leaf:
            same.add((entry.document_id, entry.version))
        else:
            entry.until = row.version
            session.add(entry)
    for document_id, version in sorted(leaves.keys() - same):
        session.add(
            MemoryEntryRow(
                tenant_id=row.tenant_id,
                collection=row.collection,
                document_id=document_id,
                version=version,
                since=row.version,
                accepted=accepted[document_id, version],
                leaf=leaves[document_id, version],
            )
        )
    version_id = version_id_of(row.domain, [(*name, leaf) for name, leaf in leaves.items()])
    signature = keys.sign(signed_bytes(row.tenant_id, row.collection, row.version, version_id))
    session.add(
        MemoryVersionRow(
            tenant_id=row.tenant_id,
            collection=row.collection,
            number=row.version,
            version_id=version_id,
            domain=row.domain,
            documents=len(live),
            decision=change.decision.value,
            restores=change.restores,
            key_id=signature.key_id,
            signature=signature.signature,
            actor=change.actor,
            reason=change.reason,
            at=change.now,
        )
    )
    session.flush()


def _live_of(session: Session, row: MemoryCollectionRow) -> Sequence[MemoryDocumentRow]:
    return session.exec(
        select(MemoryDocumentRow).where(
            MemoryDocumentRow.tenant_id == row.tenant_id,
            MemoryDocumentRow.collection == row.collection,
            MemoryDocumentRow.state == State.LIVE,
        )
    ).all()


def _forget_old(session: Session, tenant_id: str, collection: str, oldest: int) -> bool:
    """Delete what stood only in versions before ``oldest``, and texts that nothing can bring back; say if any was."""
    of = (col(MemoryEntryRow.tenant_id) == tenant_id, col(MemoryEntryRow.collection) == collection)
    gone = session.connection().execute(
        delete(MemoryEntryRow).where(*of, col(MemoryEntryRow.until) <= oldest)
    )
    if not gone.rowcount:
        return False
    stands = exists().where(
        col(MemoryEntryRow.tenant_id) == MemoryDocumentRow.tenant_id,
        col(MemoryEntryRow.collection) == MemoryDocumentRow.collection,
        col(MemoryEntryRow.document_id) == MemoryDocumentRow.document_id,
        col(MemoryEntryRow.version) == MemoryDocumentRow.version,
    )
    given_up = session.exec(
        update(MemoryDocumentRow)
        .where(
            col(MemoryDocumentRow.tenant_id) == tenant_id,
            col(MemoryDocumentRow.collection) == collection,
            col(MemoryDocumentRow.state) == State.SUPERSEDED,
            col(MemoryDocumentRow.sealed).is_not(None),
            ~stands,
        )
        .values(sealed=None, vectors=None, digest="", salt=None)
        .execution_options(synchronize_session="fetch")
    )
    return given_up.rowcount > 0


def _make_room(session: Session, tenant_id: str) -> bool:
    """Delete the oldest texts that are kept for roll-backs where a tenant has too many of them; say if any was."""
    kept = session.exec(
        select(
            MemoryDocumentRow.collection,
            MemoryDocumentRow.document_id,
            MemoryDocumentRow.version,
            MemoryDocumentRow.chunks,
        )
        .where(
            MemoryDocumentRow.tenant_id == tenant_id,
            MemoryDocumentRow.state == State.SUPERSEDED,
            col(MemoryDocumentRow.sealed).is_not(None),
        )
        .order_by(col(MemoryDocumentRow.ended_at).desc())
    ).all()
    total = 0
    for *name, chunks in kept:
        total += chunks
        if total > MOST_KEPT_PASSAGES:
            row = session.get(MemoryDocumentRow, (tenant_id, *name))
            if row is not None:
                emptied(session, row)
    return total > MOST_KEPT_PASSAGES


def emptied(session: Session, row: MemoryDocumentRow) -> None:
    """Delete what a version of a document says, for good."""
    row.sealed = row.vectors = row.salt = None
    row.digest = ""
    session.add(row)


def leaves_by_collection(leaves: Iterable[tuple[str, Leaf]]) -> dict[str, list[Leaf]]:
    """Return leaves by the collection that they stand in."""
    found: dict[str, list[Leaf]] = defaultdict(list)
    for collection, leaf in leaves:
        found[collection].append(leaf)
    return found
