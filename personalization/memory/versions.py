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
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import exists
from sqlmodel import col, delete, select, update

from personalization.errors import MemoryMoveError, MemoryNotFoundError
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
    """What made a version of a collection."""

    FOUND = "found"  # it was there before versions were signed
    ADDED = "added"
    REMOVED = "removed"
    ACCEPTED = "accepted"  # somebody read passages that look like orders
    ROLLED_BACK = "rolled_back"


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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What changes from one version of a collection to another, by names as ``refunds@3``."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...]
    accepted: tuple[str, ...]  # marked passages are sent in one of the two alone
    domain: tuple[str, str] | None = None


def leaf_of(row: MemoryDocumentRow) -> str:
    """Return what of a live document's row the signature of its collection covers."""
    return digest_of(
        {
            "salt": row.salt or "",
            "document_id": row.document_id,
            "version": row.version,
            "sha256": row.digest,
            "approved_by": row.approved_by,
            "valid_from": row.added_at.astimezone(UTC).isoformat(),
            "valid_until": row.valid_until.astimezone(UTC).isoformat() if row.valid_until else None,
            "accepted": row.accepted,
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


def begin(session: Session, keys: MemoryKeys, row: MemoryCollectionRow | None, change: Change) -> None:
    """Sign what stands in a collection where nobody did yet, so that one can go back to it; before a change."""
    if row is None or row.version < 1:
        return
    if find(session, row.tenant_id, row.collection, row.version) is None:
        _keep(
            session,
            keys,
            row,
            Change(decision=Decision.FOUND, actor=change.actor, reason="as it was found", now=change.now),
        )


def keep(session: Session, keys: MemoryKeys, row: MemoryCollectionRow, change: Change) -> MemoryVersionRow:
    """Sign and store the version that a locked collection has now, and forget what is too old to go back to."""
    made = _keep(session, keys, row, change)
    _forget_old(session, row.tenant_id, row.collection, row.version - KEPT)
    _make_room(session, row.tenant_id)
    return made


def versions_of(session: Session, tenant_id: str, collection: str) -> Sequence[MemoryVersionRow]:
    """Return every version of a collection that was signed, oldest first."""
    return session.exec(
        select(MemoryVersionRow)
        .where(MemoryVersionRow.tenant_id == tenant_id, MemoryVersionRow.collection == collection)
        .order_by(col(MemoryVersionRow.number))
    ).all()


def find(session: Session, tenant_id: str, collection: str, number: int) -> MemoryVersionRow | None:
    """Return a version; ``None`` where none of that number was signed."""
    return session.get(MemoryVersionRow, (tenant_id, collection, number))


def require(session: Session, tenant_id: str, collection: str, number: int) -> MemoryVersionRow:
    """Return a version that one can still look into.

    Raises:
        MemoryNotFoundError: there is none of that number, or it is too old.
    """
    row = find(session, tenant_id, collection, number)
    newest = session.get(MemoryCollectionRow, (tenant_id, collection))
    if row is None or newest is None or number < newest.version - KEPT:
        raise MemoryNotFoundError(
            f"the collection {collection!r} keeps no version {number}; `discreet memory versions` shows what it keeps "
            f"(the newest and {KEPT} before it)"
        )
    return row


def entries_at(session: Session, tenant_id: str, collection: str, number: int) -> Sequence[MemoryEntryRow]:
    """Return what stood in a version of a collection, by name."""
    until = col(MemoryEntryRow.until)
    return session.exec(
        select(MemoryEntryRow)
        .where(
            MemoryEntryRow.tenant_id == tenant_id,
            MemoryEntryRow.collection == collection,
            MemoryEntryRow.since <= number,
            until.is_(None) | (until > number),
        )
        .order_by(col(MemoryEntryRow.document_id))
    ).all()


def before(session: Session, tenant_id: str, collection: str) -> int:
    """Return the version before what holds now; each roll-back goes one further back, and none comes forward.

    Raises:
        MemoryMoveError: there is none.
    """
    rows = {row.number: row for row in versions_of(session, tenant_id, collection)}
    if not rows:
        raise MemoryMoveError(
            f"the collection {collection!r} has no signed version; there is nothing to go back to"
        )
    now = rows[max(rows)]
    while now.restores is not None and now.restores in rows:
        now = rows[now.restores]
    earlier = max((number for number in rows if number < now.number), default=None)
    if earlier is None:
        raise MemoryMoveError(
            f"the collection {collection!r} held nothing before; there is nothing to go back to"
        )
    return earlier


def difference(session: Session, tenant_id: str, collection: str, one: int, other: int) -> Difference:
    """Return what changes from one version of a collection to another.

    Raises:
        MemoryNotFoundError: one of the two is not kept.
    """
    first, second = (require(session, tenant_id, collection, number) for number in (one, other))
    old, new = (
        {entry.document_id: entry for entry in entries_at(session, tenant_id, collection, row.number)}
        for row in (first, second)
    )
    both = sorted(old.keys() & new.keys())
    return Difference(
        added=tuple(_name(new[name]) for name in sorted(new.keys() - old.keys())),
        removed=tuple(_name(old[name]) for name in sorted(old.keys() - new.keys())),
        replaced=tuple(
            (_name(old[name]), _name(new[name])) for name in both if old[name].version != new[name].version
        ),
        accepted=tuple(
            _name(new[name])
            for name in both
            if old[name].version == new[name].version and old[name].accepted != new[name].accepted
        ),
        domain=None if first.domain == second.domain else (first.domain or "*", second.domain or "*"),
    )


def facts_of(session: Session, keys: MemoryKeys, row: MemoryVersionRow, *, kept: bool) -> dict[str, Any]:
    """Return a version as JSON has it, with its list of sources where it is kept; never what they say."""
    facts: dict[str, Any] = {
        "collection": row.collection,
        "version": row.number,
        "version_id": row.version_id,
        "domain": row.domain or "*",
        "documents": row.documents,
        "decision": row.decision,
        "restores": row.restores,
        "approved_by": row.actor,
        "reason": row.reason,
        "at": row.at.isoformat(),
        "signed_by": row.key_id,
        "signature_holds": None,
        "sources": None,
    }
    if not kept:
        return facts
    entries = entries_at(session, row.tenant_id, row.collection, row.number)
    facts["signature_holds"] = holds(
        keys, row, row.domain, [(one.document_id, one.version, one.leaf) for one in entries]
    )
    facts["sources"] = [_source(session, entry) for entry in entries]
    return facts


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
            _log.warning("memory_collection_not_signed", tenant=tenant_id, version=number)
            found.add(collection)
    return frozenset(found)


def forget(session: Session, tenant_id: str) -> None:
    """Delete every version of a tenant that leaves."""
    connection = session.connection()
    connection.execute(delete(MemoryEntryRow).where(col(MemoryEntryRow.tenant_id) == tenant_id))
    connection.execute(delete(MemoryVersionRow).where(col(MemoryVersionRow.tenant_id) == tenant_id))


def _keep(session: Session, keys: MemoryKeys, row: MemoryCollectionRow, change: Change) -> MemoryVersionRow:
    session.flush()
    live = session.exec(
        select(MemoryDocumentRow).where(
            MemoryDocumentRow.tenant_id == row.tenant_id,
            MemoryDocumentRow.collection == row.collection,
            MemoryDocumentRow.state == State.LIVE,
        )
    ).all()
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
    made = MemoryVersionRow(
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
    session.add(made)
    session.flush()
    return made


def _forget_old(session: Session, tenant_id: str, collection: str, oldest: int) -> None:
    """Delete what stood only in versions before ``oldest``, and the texts that nothing can bring back any more."""
    of = (col(MemoryEntryRow.tenant_id) == tenant_id, col(MemoryEntryRow.collection) == collection)
    gone = session.connection().execute(
        delete(MemoryEntryRow).where(*of, col(MemoryEntryRow.until) <= oldest)
    )
    if not gone.rowcount:
        return
    stands = exists().where(
        col(MemoryEntryRow.tenant_id) == MemoryDocumentRow.tenant_id,
        col(MemoryEntryRow.collection) == MemoryDocumentRow.collection,
        col(MemoryEntryRow.document_id) == MemoryDocumentRow.document_id,
        col(MemoryEntryRow.version) == MemoryDocumentRow.version,
    )
    session.exec(
        update(MemoryDocumentRow)
        .where(
            col(MemoryDocumentRow.tenant_id) == tenant_id,
            col(MemoryDocumentRow.collection) == collection,
            col(MemoryDocumentRow.state) == State.SUPERSEDED,
            ~stands,
        )
        .values(sealed=None, vectors=None, digest="", salt=None)
        .execution_options(synchronize_session="fetch")
    )


def _make_room(session: Session, tenant_id: str) -> None:
    """Delete the oldest texts that are kept for roll-backs where a tenant has too many of them."""
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


def _source(session: Session, entry: MemoryEntryRow) -> dict[str, Any]:
    row = session.get(
        MemoryDocumentRow, (entry.tenant_id, entry.collection, entry.document_id, entry.version)
    )
    return {
        "id": entry.document_id,
        "version": entry.version,
        "sha256": None if row is None or not row.digest else row.digest.removeprefix("sha256:"),
        "approved_by": "" if row is None else row.approved_by,
        "valid_from": None if row is None else row.added_at.isoformat(),
        "valid_until": row.valid_until.isoformat() if row is not None and row.valid_until else None,
        "marked_accepted": entry.accepted,
        "kept": row is not None and row.sealed is not None,
    }


def _name(entry: MemoryEntryRow) -> str:
    return f"{entry.document_id}@{entry.version}"
