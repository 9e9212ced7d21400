"""Approve, remove and list documents: public acts of a tenant's administrators, audited without a word of the text.

A document has one live version. A new one takes its place in the same transaction, so nobody ever finds both, and no
number is used twice. Each change is a signed version of the collection (``versions``); what it replaced is kept, sealed
and unfindable, so that one can go back (``restoring``). Of what was removed nothing is kept but name, number and times.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sqlmodel import col, delete, select

from personalization.errors import MemoryDocumentError, MemoryMoveError, MemoryNotFoundError
from personalization.memory import candidates, pgvector, versions
from personalization.memory.changing import (
    begin,
    check_room,
    end,
    leave,
    lessen,
    lock,
    noted,
    require_each_once,
    says,
    touch,
    write,
)
from personalization.memory.chunking import chunks_of, embedded_text
from personalization.memory.cleaning import cleaned
from personalization.memory.queries import listed
from personalization.memory.sealing import vector_bytes
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import COLLECTION, Fate, State
from personalization.memory.versions import Decision
from privacy.audit import trail as audit_trail
from privacy.policy.values import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlmodel import Session
    from sqlmodel.sql.expression import SelectOfScalar

    from personalization.memory.embedding import Embedder
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.values import Chunk, Draft

LONGEST_REASON: Final = 500


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and by whom something is approved.

    Attributes:
        tenant_id: whose memory.
        collection: which list of documents.
        actor: who approves or removes.
        now: aware UTC.
        domain: whose questions a new collection is looked up for; empty: every domain's. ``None`` leaves it.
        reason: why, in one public sentence; auditors see it.
    """

    tenant_id: str
    collection: str
    actor: str
    now: datetime
    domain: str | None = None
    reason: str = ""

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
        if len(self.reason) > LONGEST_REASON:
            raise MemoryDocumentError(
                f"the reason has {len(self.reason)} characters; allowed are at most {LONGEST_REASON}"
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
        gave_up: whether the act that it was part of gave up a text that was kept for going back, or unsealed vectors.
    """

    document_id: str
    version: int
    fate: Fate
    chunks: int
    marked: int
    sent: bool
    same_as: str | None = None
    gave_up: bool = False


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
        MemoryMoveError: the collection does not hold what its signed version names, or tries another version of a
            document.
    """
    require_each_once(documents)
    begin(session, keys, place, Decision.ADDED)
    live = {row.document_id: row for row in _live_of(session, place)}
    by_digest = {row.digest: row.document_id for row in reversed(list(live.values()))}
    tried = {row.document_id for row in candidates.documents_of(session, place.tenant_id, place.collection)}
    done = [
        _add_one(session, keys, place, one, live.get(one.draft.document_id), by_digest, tried)
        for one in documents
    ]
    changed = [one for one in done if one.fate is not Fate.UNCHANGED]
    session.flush()
    check_room(session, place.tenant_id)
    version, gave_up = touch(session, keys, place, Decision.ADDED, changed=bool(changed))
    if changed:
        noted(session, place, "memory.documents_added", version, changed)
    # Vectors that pgvector keeps lie unsealed; those of what is superseded are given up as well.
    dropped = pgvector.kept_here(session) and any(one.fate is Fate.SUPERSEDED for one in changed)
    return [replace(one, gave_up=gave_up or dropped) for one in done]


def remove(
    session: Session, keys: MemoryKeys, place: Place, document_ids: Iterable[str], *, earlier: bool = False
) -> list[Added]:
    """Remove documents for good, from candidates too: all that they ever said is deleted; nothing brings it back.

    One that was removed before is told again and changes nothing: whoever repeats a removal that ``scrubbed`` did not
    end comes to overwriting once more.

    Args:
        session: the caller's transaction; nothing of them is found from its commit on.
        keys: sign the version of the collection without them.
        place: where, and who removes.
        document_ids: names; of a document that a roll-back set aside too.
        earlier: what is kept of versions that were live, and leave the live one and what is tried.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryNotFoundError: the collection has nothing of that name; nothing was removed.
    """
    signs = begin(session, keys, place, Decision.REMOVED)
    candidate = candidates.open_of(session, place.tenant_id, place.collection)
    tried = candidates.documents_of(session, place.tenant_id, place.collection)
    stands = candidate is not None and candidates.holds(
        keys, place.tenant_id, candidate, candidates.leaves_of(tried)
    )
    gone, again = [], []
    found_live = found_tried = False
    for document_id in dict.fromkeys(document_ids):
        kept = [
            row
            for row in _kept_of(session, place, document_id)
            if not earlier or row.state == State.SUPERSEDED
        ]
        if not kept and not earlier and (before := _removed_before(session, place, document_id)) is not None:
            again.append(told(before, Fate.UNCHANGED))
            continue
        if not kept:
            raise MemoryNotFoundError(
                f"the collection {place.collection!r} has no live document {document_id[:80]!r}, and keeps no earlier "
                "version of one; `discreet memory list` shows what there is"
            )
        for row in kept:
            found_live = found_live or row.state == State.LIVE
            found_tried = found_tried or row.state == State.CANDIDATE
            newest = row is kept[-1]
            end(session, row, State.REMOVED if newest else State.SUPERSEDED, place.now)
            versions.emptied(session, row)
        gone.append(told(kept[-1], Fate.ADDED))
    if gone:
        version, _ = touch(session, keys, place, Decision.REMOVED, changed=found_live, signs=signs)
        if found_tried and candidate is not None:
            if stands:
                lessen(session, keys, place, candidate)
            else:  # it is found by nobody, and what is left of it must not be signed
                leave(session, place, candidate)
        taken_from = {"candidate": candidate.number} if found_tried and candidate is not None else {}
        noted(session, place, "memory.documents_removed", version, gone, **taken_from)
    return [*gone, *again]


def accept(session: Session, keys: MemoryKeys, place: Place, document_id: str) -> None:
    """Let the marked passages of a live document be sent; somebody has read them.

    Raises:
        UnknownTenantError: no such tenant is registered.
        MemoryNotFoundError: the collection has no live document of that name.
        MemoryMoveError: the collection does not hold what its signed version names.
    """
    begin(session, keys, place, Decision.ACCEPTED)
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
        version, _ = touch(session, keys, place, Decision.ACCEPTED, changed=True)
        noted(session, place, "memory.marked_accepted", version, [told(row, Fate.ADDED)])


def forget_tenant(session: Session, tenant_id: str, *, actor: str, now: datetime) -> int:
    """Remove everything of a tenant, names and numbers too, and return how many live documents there were."""
    lock(session, tenant_id)
    live = len(listed(session, tenant_id))
    collections = session.exec(
        select(MemoryCollectionRow.collection).where(MemoryCollectionRow.tenant_id == tenant_id)
    ).all()
    versions.forget(session, tenant_id)
    candidates.forget(session, tenant_id)
    connection = session.connection()
    connection.execute(delete(MemoryDocumentRow).where(col(MemoryDocumentRow.tenant_id) == tenant_id))
    connection.execute(delete(MemoryCollectionRow).where(col(MemoryCollectionRow.tenant_id) == tenant_id))
    if collections:
        detail = {"collections": len(collections), "documents": live}
        audit_trail.append(session, tenant_id, actor=actor, action="memory.forgotten", detail=detail, now=now)
    return live


def told(row: MemoryDocumentRow, fate: Fate, same_as: str | None = None) -> Added:
    """Return what became of a document."""
    return Added(
        document_id=row.document_id,
        version=row.version,
        fate=fate,
        chunks=row.chunks,
        marked=row.marked,
        sent=row.accepted,
        same_as=same_as,
    )


def _add_one(
    session: Session,
    keys: MemoryKeys,
    place: Place,
    one: Prepared,
    before: MemoryDocumentRow | None,
    by_digest: dict[str, str],
    tried: set[str],
) -> Added:
    document_id = one.draft.document_id
    same_as = by_digest.get(one.digest)
    if same_as == document_id:
        same_as = None
    if before is not None and says(before, one):
        return told(before, Fate.UNCHANGED, same_as)
    if document_id in tried:
        raise MemoryMoveError(
            f"another version of {document_id!r} is tried on a share of the users; `discreet memory promote` or "
            "`discreet memory abandon` it first"
        )
    if before is not None:
        end(session, before, State.SUPERSEDED, place.now)
        session.flush()
    row = write(session, keys, place, one, State.LIVE)
    return told(row, Fate.ADDED if before is None else Fate.SUPERSEDED, same_as)


def _kept_of(session: Session, place: Place, document_id: str) -> Sequence[MemoryDocumentRow]:
    """Return the versions of a document whose text is there, oldest first."""
    kept = _versions_of(place, document_id).where(col(MemoryDocumentRow.sealed).is_not(None))
    return session.exec(kept.order_by(col(MemoryDocumentRow.version))).all()


def _removed_before(session: Session, place: Place, document_id: str) -> MemoryDocumentRow | None:
    """Return the newest version of a document that was removed; later ones may have been tried and abandoned."""
    gone = _versions_of(place, document_id).where(MemoryDocumentRow.state == State.REMOVED)
    return session.exec(gone.order_by(col(MemoryDocumentRow.version).desc()).limit(1)).first()


def _versions_of(place: Place, document_id: str) -> SelectOfScalar[MemoryDocumentRow]:
    return select(MemoryDocumentRow).where(
        MemoryDocumentRow.tenant_id == place.tenant_id,
        MemoryDocumentRow.collection == place.collection,
        MemoryDocumentRow.document_id == document_id,
    )


def _live_of(session: Session, place: Place) -> Sequence[MemoryDocumentRow]:
    return listed(session, place.tenant_id, place.collection)
