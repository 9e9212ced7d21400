"""One tenant's memory in a process: words and vectors of the live passages, read again where the collections changed.

An index holds one tenant and nothing of another one, so neither scores nor caches can tell what others have. Documents
that did not change are not opened again. Documents that are live and not what the collection's signed version names are
left out with their whole collection. What a database alone can still do: bring back an earlier version that is kept, or
delete every signature, so that the collection looks like one from before there were any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select as select_columns
from sqlmodel import col, select

from personalization.memory import candidates, versions
from personalization.memory.chunking import embedded_text
from personalization.memory.queries import opened, row_name
from personalization.memory.ranking import WordIndex, words_of
from personalization.memory.sealing import vectors_of
from personalization.memory.tables import MemoryCollectionRow, MemoryDocumentRow
from personalization.memory.values import State, Unsigned

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from numpy.typing import NDArray
    from sqlmodel import Session

    from personalization.memory.candidates import Candidate
    from personalization.memory.embedding import Embedder
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.values import Chunk, Remembered

Name = tuple[str, str, int]  # collection, document, version
Standing = tuple[tuple[str, str, int], ...]  # collection, domain, version of each collection
Within = Callable[
    [str, float], bool
]  # salt and percent: whether who asks is drawn; see streams/gateway/choosing.py


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """A document with what its passages are found by."""

    document: Remembered
    words: tuple[Mapping[str, int], ...]
    vectors: NDArray[np.float32] | None
    salt: str | None
    leaf: str


@dataclass(frozen=True, kw_only=True)
class TenantIndex:
    """Every live passage of one tenant, and those of candidates.

    Attributes:
        standing: of the collections when they were read.
        documents: by name, as they were opened.
        passages: document and piece of each row.
        words: the word index over the rows.
        vectors: ``(rows, dimensions)``; zeros where a document was not embedded. ``None`` without an embedder.
        refused: collections whose documents are not those that their signed version names; nothing is found in them.
        until: instant (Unix seconds) at which each row's document ends; infinity for most.
        opens: candidates when they were read.
        candidates: those of them that are what was signed, by collection; what others say is found by nobody.
        tried: names of the documents that candidates change.
    """

    standing: Standing
    documents: Mapping[Name, _Opened]
    passages: tuple[tuple[Remembered, Chunk], ...]
    words: WordIndex
    vectors: NDArray[np.float32] | None
    refused: frozenset[str]
    until: NDArray[np.float64]
    opens: tuple[Candidate, ...]
    candidates: Mapping[str, Candidate]
    tried: frozenset[Name]

    def collections_for(self, domain: str) -> set[str]:
        """Return the collections that are looked up for a domain."""
        return self._of(domain) - self.refused

    def unsigned_for(self, domain: str) -> frozenset[Unsigned]:
        """Return of which kinds something of a domain is not what was signed, and found by nobody."""
        left_out = {
            Unsigned.COLLECTION: self.refused,
            Unsigned.CANDIDATE: {one.collection for one in self.opens} - self.candidates.keys(),
        }
        of_domain = self._of(domain)
        return frozenset(what for what, names in left_out.items() if names & of_domain)

    def _of(self, domain: str) -> set[str]:
        return {name for name, whose, _ in self.standing if whose in {"", domain}}

    def drawn_for(self, domain: str, within: Within | None) -> tuple[Candidate, ...]:
        """Return the candidates that who asks is drawn for; without a draw there are none."""
        if within is None:
            return ()
        of_domain = self.collections_for(domain)
        return tuple(
            one
            for name, one in sorted(self.candidates.items())
            if name in of_domain and within(one.salt, one.percent)
        )

    def versions_for(self, domain: str, drawn: Collection[Candidate] = ()) -> tuple[str, ...]:
        """Return the same with their versions, as ``default@7``, and ``default@7~8`` with the candidate 8."""
        of_domain = self.collections_for(domain)
        over = {one.collection: f"~{one.number}" for one in drawn}
        return tuple(
            f"{name}@{version}{over.get(name, '')}" for name, _, version in self.standing if name in of_domain
        )

    @cached_property
    def rows(self) -> Mapping[tuple[str, str, int, int], int]:
        """The row of each passage, by collection, document, version and number."""
        return {
            (document.collection, document.document_id, document.version, chunk.number): row
            for row, (document, chunk) in enumerate(self.passages)
        }

    def alive(self, domain: str, now: datetime, drawn: Collection[Candidate] = ()) -> NDArray[np.bool_]:
        """Say of each row whether it may be found for a domain now, by who is drawn for these candidates."""
        of_domain = self.collections_for(domain)
        here = self._in(of_domain)
        if self.tried:
            over = self._in({one.collection for one in drawn})
            here &= np.where(self._tried_rows, over, ~(self._replaced_rows & over))
        return here & (self.until > now.timestamp())

    def _in(self, collections: Collection[str]) -> NDArray[np.bool_]:
        return np.fromiter(
            (document.collection in collections for document, _ in self.passages),
            np.bool_,
            len(self.passages),
        )

    @cached_property
    def _tried_rows(self) -> NDArray[np.bool_]:
        """Which rows are candidates'."""
        return np.array([_name_of(document) in self.tried for document, _ in self.passages], np.bool_)

    @cached_property
    def _replaced_rows(self) -> NDArray[np.bool_]:
        """Which rows a candidate has another version of; also its own."""
        names = {name[:2] for name in self.tried}
        return np.array([_name_of(document)[:2] in names for document, _ in self.passages], np.bool_)

    def sendable(self) -> NDArray[np.bool_]:
        """Say of each row whether it may be sent: it does not look like orders, or somebody accepted it."""
        return np.fromiter(
            (not chunk.marks or document.accepted for document, chunk in self.passages),
            np.bool_,
            len(self.passages),
        )


def _name_of(document: Remembered) -> Name:
    return document.collection, document.document_id, document.version


def standing_of(session: Session, tenant_id: str) -> Standing:
    """Return the version of each of a tenant's collections; it differs whenever anything changed."""
    query = select(MemoryCollectionRow.collection, MemoryCollectionRow.domain, MemoryCollectionRow.version)
    rows = session.exec(
        query.where(MemoryCollectionRow.tenant_id == tenant_id).order_by(col(MemoryCollectionRow.collection))
    )
    return tuple((collection, domain, version) for collection, domain, version in rows)


def read_index(
    session: Session,
    keys: MemoryKeys,
    tenant_id: str,
    embedder: Embedder | None,
    before: TenantIndex | None,
) -> TenantIndex:
    """Return the index of a tenant as the database has it now.

    Args:
        session: reads one state of the database.
        keys: open documents.
        tenant_id: whose.
        embedder: whose vectors count; those of another one are embedded again here.
        before: an earlier index; its documents are taken over where they are still there.

    Raises:
        KeyUnavailableError: a document was sealed with another key.
    """
    known = {} if before is None else before.documents
    found = (
        col(MemoryDocumentRow.tenant_id) == tenant_id,
        col(MemoryDocumentRow.state).in_((State.LIVE, State.CANDIDATE)),
    )
    names = (
        session.connection()
        .execute(
            select_columns(
                col(MemoryDocumentRow.collection),
                col(MemoryDocumentRow.document_id),
                col(MemoryDocumentRow.version),
                col(MemoryDocumentRow.accepted),
                col(MemoryDocumentRow.salt),
                col(MemoryDocumentRow.state),
            ).where(*found)
        )
        .all()
    )
    kept = {
        name: known[name]
        for collection, document_id, version, accepted, salt, _ in names
        if (name := (collection, document_id, version)) in known
        and (known[name].document.accepted, known[name].salt) == (accepted, salt)
    }
    fresh = {}
    if len(kept) < len(names):
        for row in session.exec(select(MemoryDocumentRow).where(*found)):
            if (row.collection, row.document_id, row.version) not in kept:
                fresh[row.collection, row.document_id, row.version] = _open(row, keys, embedder)
    documents = {**kept, **fresh}
    standing = standing_of(session, tenant_id)
    tried = frozenset((one[0], one[1], one[2]) for one in names if one.state == State.CANDIDATE)
    live, over = (
        versions.leaves_by_collection(
            (collection, (document_id, version, one.leaf))
            for (collection, document_id, version), one in documents.items()
            if ((collection, document_id, version) in tried) is of_candidates
        )
        for of_candidates in (False, True)
    )
    opens = candidates.opens(session, tenant_id)
    return _built(
        standing,
        documents,
        embedder,
        refused=versions.refused(session, keys, tenant_id, standing, live),
        opens=opens,
        tried=tried,
        held={
            one.collection: one
            for one in opens
            if candidates.holds(keys, tenant_id, one, over.get(one.collection, ()))
        },
    )


def _open(row: MemoryDocumentRow, keys: MemoryKeys, embedder: Embedder | None) -> _Opened:
    document = opened(row, keys)
    texts = [embedded_text(document.title, chunk) for chunk in document.chunks]
    vectors = None
    if embedder is not None:
        if row.vectors is not None and row.embedder == embedder.name:
            plain = keys.open(row.vectors, row.tenant_id, *row_name(row), "vectors")
            vectors = vectors_of(plain, len(texts))
        else:  # approved where no embedder, or another one, was installed
            vectors = embedder.embed(texts)
    return _Opened(
        document=document,
        words=tuple(Counter(words_of(text)) for text in texts),
        vectors=vectors,
        salt=row.salt,
        leaf=versions.leaf_of(row),
    )


def _built(
    standing: Standing,
    documents: Mapping[Name, _Opened],
    embedder: Embedder | None,
    *,
    refused: frozenset[str],
    opens: tuple[Candidate, ...],
    held: Mapping[str, Candidate],
    tried: frozenset[Name],
) -> TenantIndex:
    ordered = [documents[name] for name in sorted(documents)]
    vectors = [one.vectors for one in ordered if one.vectors is not None]
    lasting = float("inf")
    return TenantIndex(
        standing=standing,
        documents=documents,
        passages=tuple((one.document, chunk) for one in ordered for chunk in one.document.chunks),
        words=WordIndex([words for one in ordered for words in one.words]),
        vectors=np.concatenate(vectors) if embedder is not None and vectors else None,
        refused=refused,
        opens=opens,
        candidates=held,
        tried=tried,
        until=np.array(
            [
                lasting if one.document.valid_until is None else one.document.valid_until.timestamp()
                for one in ordered
                for _ in one.document.chunks
            ],
            np.float64,
        ),
    )
