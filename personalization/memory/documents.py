"""Approve, remove and list documents: public acts of a tenant's administrators, audited without a word of the text.

A document has one live version. A new one takes its place in the same transaction, so nobody ever finds both; of a
version that is no longer live nothing is kept but its name, number and times, and no number is used twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import func
from sqlmodel import col, delete, select

from personalization.errors import MemoryDocumentError, MemoryNotFoundError
from personalization.memory import pgvector
from personalization.memory.chunking import chunks_of, embedded_text
from personalization.memory.cleaning import cleaned
from personalization.memory.queries import listed, row_name
from personalization.memory.sealing import content_bytes, vector_bytes, vectors_of
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import COLLECTION, Fate, State
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies
from privacy.policy.values import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.memory.embedding import Embedder
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.values import Chunk, Draft

MOST_DOCUMENTS: Final = 100_000  # live ones of a tenant
MOST_CHUNKS: Final = 200_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and by whom something is approved.

    Attributes:
        tenant_id: whose memory.
        collection: which list of documents.
        actor: who approves or removes.
        now: aware UTC.
        domain: whose questions a new collection is looked up for; empty: every domain's. ``None`` leaves it.
    """

    tenant_id: str
    collection: str
    actor: str
    now: datetime
    domain: str | None = None

    def __post_init__(self) -> None:
        if not COLLECTION.match(self.collection):
            raise MemoryDocumentError(
                f"collection is {self.collection[:80]!r}; allowed are 1 to 63 characters a-z, 0-9 and -, not starting "
                "with -"
            )
        if self.domain and not DOMAIN.match(self.domain):
            raise MemoryDocumentError(
                f"domain is {self.domain[:80]!r}; allowed is one of the tenant's domains"
            )
        if not 0 < len(self.actor.strip()) <= 200:
            raise MemoryDocumentError(
                f"actor has {len(self.actor)} characters; allowed are 1 to 200, naming who approves"
            )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A document cut and embedded, before any transaction: embedding takes seconds, and holds up nobody.

    Attributes:
        draft: as it was approved.
        title: cleaned.
        digest: of title, source and text.
        chunks: its passages.
        vectors: half-precision bytes, one vector for each passage; ``None`` without an embedder.
        embedder: what made them; empty where nothing did.
    """

    draft: Draft
    title: str
    digest: str
    chunks: tuple[Chunk, ...]
    vectors: bytes | None
    embedder: str


@dataclass(frozen=True, kw_only=True)
class Added:
    """What adding one document did.

    Attributes:
        document_id: which.
        version: the one that is live now.
        fate: in a word.
        chunks: passages.
        marked: of these, how many look like orders to a model.
        sent: whether those are sent all the same.
        same_as: another live document of the collection with the same words, if there is one.
    """

    document_id: str
    version: int
    fate: Fate
    chunks: int
    marked: int
    sent: bool
    same_as: str | None = None


def prepared(drafts: Sequence[Draft], embedder: Embedder | None) -> list[Prepared]:
    """Return drafts cut into passages and embedded.

    Raises:
        MemoryDocumentError: one has no words that could be found.
    """
    cut = []
    for draft in drafts:
        title = " ".join(cleaned(draft.title).split())
        text, chunks = chunks_of(draft.text)
        if not chunks:
            raise MemoryDocumentError(f"document {draft.document_id!r} has headings alone; give it text")
        digest = hashlib.sha256(json.dumps([title, draft.source, text]).encode()).hexdigest()
        cut.append((draft, title, f"sha256:{digest}", chunks))
    vectors: list[bytes | None] = [None] * len(cut)
    if embedder is not None:
        texts = [embedded_text(title, chunk) for _, title, _, chunks in cut for chunk in chunks]
        found, at = embedder.embed(texts), 0
        for place, (*_, chunks) in enumerate(cut):
            vectors[place] = vector_bytes(found[at : at + len(chunks)])
            at += len(chunks)
    return [
        Prepared(
            draft=draft,
            title=title,
            digest=digest,
            chunks=chunks,
            vectors=vectors[place],
            embedder="" if embedder is None else embedder.name,
        )
        for place, (draft, title, digest, chunks) in enumerate(cut)
    ]


def add(session: Session, keys: MemoryKeys, place: Place, documents: Sequence[Prepared]) -> list[Added]:
    """Make each document the live version of its name; all of them or none.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryDocumentError: a name stands twice, or the tenant would have too many documents or passages.
    """
    names = [one.draft.document_id for one in documents]
    if len(set(names)) != len(names):
        raise MemoryDocumentError(
            "a document id stands twice among what is added; give each document its own"
        )
    _lock(session, place.tenant_id)
    live = {row.document_id: row for row in _live_of(session, place)}
    by_digest = {row.digest: row.document_id for row in reversed(list(live.values()))}
    done = [
        _add_one(session, keys, place, one, live.get(one.draft.document_id), by_digest) for one in documents
    ]
    changed = [one for one in done if one.fate is not Fate.UNCHANGED]
    version = _touch(session, place, changed=bool(changed))
    session.flush()
    _check_room(session, place.tenant_id)
    if changed:
        _audit(session, place, "memory.documents_added", version, changed)
    return done


def remove(session: Session, place: Place, document_ids: Iterable[str]) -> list[Added]:
    """Remove documents: what they say is deleted, and nothing of them is found from the commit on.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryNotFoundError: the collection has no live document of that name; nothing was removed.
    """
    _lock(session, place.tenant_id)
    live = {row.document_id: row for row in _live_of(session, place)}
    gone = []
    for document_id in dict.fromkeys(document_ids):
        row = live.get(document_id)
        if row is None:
            raise MemoryNotFoundError(
                f"the collection {place.collection!r} has no live document {document_id[:80]!r}; "
                "`discreet memory list` shows what there is"
            )
        _end(session, row, State.REMOVED, place.now)
        gone.append(_told(row, Fate.ADDED))
    if gone:
        _audit(session, place, "memory.documents_removed", _touch(session, place, changed=True), gone)
    return gone


def accept(session: Session, place: Place, document_id: str) -> None:
    """Let the marked passages of a live document be sent; somebody has read them.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryNotFoundError: the collection has no live document of that name.
    """
    _lock(session, place.tenant_id)
    row = next(
        (one for one in _live_of(session, place) if one.document_id == document_id),
        None,
    )
    if row is None:
        raise MemoryNotFoundError(
            f"the collection {place.collection!r} has no live document {document_id[:80]!r}; "
            "`discreet memory list` shows what there is"
        )
    if not row.accepted:
        row.accepted = True
        session.add(row)
        version = _touch(session, place, changed=True)
        _audit(session, place, "memory.marked_accepted", version, [_told(row, Fate.ADDED)])


def forget_tenant(session: Session, tenant_id: str, *, actor: str, now: datetime) -> int:
    """Remove everything of a tenant, names and numbers too, and return how many live documents there were."""
    _lock(session, tenant_id)
    live = len(listed(session, tenant_id))
    collections = session.exec(
        select(MemoryCollectionRow.collection).where(MemoryCollectionRow.tenant_id == tenant_id)
    ).all()
    connection = session.connection()
    connection.execute(delete(MemoryDocumentRow).where(col(MemoryDocumentRow.tenant_id) == tenant_id))
    connection.execute(delete(MemoryCollectionRow).where(col(MemoryCollectionRow.tenant_id) == tenant_id))
    if collections:
        detail = {"collections": len(collections), "documents": live}
        audit_trail.append(session, tenant_id, actor=actor, action="memory.forgotten", detail=detail, now=now)
    return live


def scrub(engine: Engine) -> None:
    """Overwrite what was deleted in the database's own files; backups and replicas are not reached.

    SQLite overwrites deleted pages (``secure_delete``), and its log of writes is emptied here. PostgreSQL is asked to
    vacuum; it frees the room for what comes next.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("COMMIT")  # every connection here begins one
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            connection.exec_driver_sql("VACUUM memory_documents")
            if pgvector.kept_at(connection):  # where vectors lie unsealed
                connection.exec_driver_sql("VACUUM memory_vectors")


def _add_one(
    session: Session,
    keys: MemoryKeys,
    place: Place,
    one: Prepared,
    before: MemoryDocumentRow | None,
    by_digest: dict[str, str],
) -> Added:
    draft = one.draft
    same_as = by_digest.get(one.digest)
    if same_as == draft.document_id:
        same_as = None
    if before is not None and _unchanged(before, one):
        return _told(before, Fate.UNCHANGED, same_as)
    newest = session.exec(
        select(func.max(MemoryDocumentRow.version)).where(
            MemoryDocumentRow.tenant_id == place.tenant_id,
            MemoryDocumentRow.collection == place.collection,
            MemoryDocumentRow.document_id == draft.document_id,
        )
    ).one()
    if before is not None:
        _end(session, before, State.SUPERSEDED, place.now)
        session.flush()
    row = MemoryDocumentRow(
        tenant_id=place.tenant_id,
        collection=place.collection,
        document_id=draft.document_id,
        version=(newest or 0) + 1,
        state=State.LIVE,
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
    return _told(row, Fate.ADDED if before is None else Fate.SUPERSEDED, same_as)


def _unchanged(before: MemoryDocumentRow, one: Prepared) -> bool:
    return (
        before.digest == one.digest
        and before.valid_until == one.draft.valid_until
        and (before.accepted or not one.draft.accept_marked)  # who accepted the same words has read them
        and before.embedder == one.embedder
    )


def _end(session: Session, row: MemoryDocumentRow, state: State, now: datetime) -> None:
    if pgvector.kept_here(session):
        pgvector.drop(session, row)
    row.state, row.ended_at = state, now
    row.sealed = row.vectors = None
    row.digest = ""
    session.add(row)


def _touch(session: Session, place: Place, *, changed: bool) -> int:
    """Raise a collection's version where it changed, and make it where there is none; return the version."""
    row = session.get(MemoryCollectionRow, (place.tenant_id, place.collection))
    if row is None:
        row = MemoryCollectionRow(
            tenant_id=place.tenant_id,
            collection=place.collection,
            domain=place.domain or "",
            version=0,
            changed_at=place.now,
        )
    if place.domain is not None and row.domain != place.domain:
        row.domain, changed = place.domain, True
    if changed:
        row.version, row.changed_at = row.version + 1, place.now
        session.add(row)
        session.flush()
    return row.version


def _check_room(session: Session, tenant_id: str) -> None:
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


def _lock(session: Session, tenant_id: str) -> None:
    policies.tenant(session, tenant_id)  # says so where there is none
    policies.lock_tenant(session, tenant_id)


def _live_of(session: Session, place: Place) -> Sequence[MemoryDocumentRow]:
    return listed(session, place.tenant_id, place.collection)


def _told(row: MemoryDocumentRow, fate: Fate, same_as: str | None = None) -> Added:
    return Added(
        document_id=row.document_id,
        version=row.version,
        fate=fate,
        chunks=row.chunks,
        marked=row.marked,
        sent=row.accepted,
        same_as=same_as,
    )


def _audit(session: Session, place: Place, action: str, version: int, what: Sequence[Added]) -> None:
    detail = {
        "collection": place.collection,
        "version": version,
        "documents": [f"{one.document_id}@{one.version}" for one in what],
        "marked_accepted": [one.document_id for one in what if one.marked and one.sent],
    }
    audit_trail.append(
        session, place.tenant_id, actor=place.actor.strip(), action=action, detail=detail, now=place.now
    )
