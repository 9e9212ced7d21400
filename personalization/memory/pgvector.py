"""Compare meanings inside PostgreSQL with the extension ``vector``, for memories that no process should hold.

The table is derived from the sealed documents, and kept in the transactions that change them. It has no index over
vectors on purpose: filters come after the scan of one, so a small tenant beside a large one would find nothing;
without, the tenant's rows alone are read and compared exactly. Vectors lie in it unsealed, because the database must
compare them; what documents say stays sealed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from personalization.errors import MemoryVectorsError
from personalization.memory.chunking import embedded_text
from personalization.memory.embedding import DIMENSIONS
from personalization.memory.queries import listed, opened, row_name, tenants_with_memory
from personalization.memory.ranking import CANDIDATES
from personalization.memory.sealing import vector_bytes, vectors_of
from personalization.memory.tables import MemoryDocumentRow
from personalization.memory.values import State
from privacy.policy import versions as policies
from privacy.storage.session import reading, transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from numpy.typing import NDArray
    from sqlalchemy.engine import Connection, Engine
    from sqlmodel import Session

    from personalization.memory.candidates import Candidate
    from personalization.memory.embedding import Embedder
    from personalization.memory.index import TenantIndex
    from personalization.memory.sealing import MemoryKeys
    from personalization.memory.values import Chunk

AT_ONCE: Final = 64  # documents that ``fill`` embeds, then writes
_TABLE: Final = f"""
    CREATE TABLE IF NOT EXISTS memory_vectors (
        tenant_id varchar(63) NOT NULL, collection varchar(63) NOT NULL, document_id varchar(128) NOT NULL,
        version integer NOT NULL, chunk integer NOT NULL, marked boolean NOT NULL, embedder varchar(63) NOT NULL,
        embedding vector({DIMENSIONS}) NOT NULL,
        PRIMARY KEY (tenant_id, collection, document_id, version, chunk),
        FOREIGN KEY (tenant_id, collection, document_id, version) REFERENCES memory_documents ON DELETE CASCADE
    )
"""
_PUT: Final = text(
    "INSERT INTO memory_vectors VALUES (:tenant_id, :collection, :document_id, :version, :chunk, :marked, :embedder, "
    "CAST(:embedding AS vector)) ON CONFLICT (tenant_id, collection, document_id, version, chunk) DO UPDATE SET "
    "embedder = excluded.embedder, embedding = excluded.embedding"
)
_DROP: Final = text(
    "DELETE FROM memory_vectors WHERE tenant_id = :tenant_id AND collection = :collection "
    "AND document_id = :document_id AND version = :version"
)
# The tenant stands in all tables' conditions, so that whatever plan is made reads that tenant's rows. Of collections in
# "drawn" a candidate's documents count, and not the live ones of the same names.
NEAREST: Final = """
    SELECT v.collection, v.document_id, v.version, v.chunk, 1 - (v.embedding <=> CAST(:vector AS vector))
    FROM memory_vectors v JOIN memory_documents d ON d.tenant_id = v.tenant_id AND d.collection = v.collection
        AND d.document_id = v.document_id AND d.version = v.version
    WHERE v.tenant_id = :tenant_id AND d.tenant_id = :tenant_id AND v.embedder = :embedder
        AND (d.state = 'live' AND NOT EXISTS (
                SELECT FROM memory_documents c WHERE c.tenant_id = :tenant_id AND c.collection = d.collection
                AND c.document_id = d.document_id AND c.state = 'candidate'
                AND c.collection = ANY(CAST(:drawn AS varchar[])))
            OR d.state = 'candidate' AND d.collection = ANY(CAST(:drawn AS varchar[])))
        AND (d.valid_until IS NULL OR d.valid_until > :now) AND (d.accepted OR NOT v.marked)
        AND v.collection = ANY(:collections)
    ORDER BY v.embedding <=> CAST(:vector AS vector) LIMIT :most
"""


def kept_here(session: Session) -> bool:
    """Say whether the database keeps vectors in the table."""
    if session.get_bind().dialect.name != "postgresql":
        return False
    return kept_at(session.connection())


def kept_at(connection: Connection) -> bool:
    """Say the same over a connection to PostgreSQL."""
    return connection.execute(text("SELECT to_regclass('memory_vectors')")).scalar() is not None


def put(
    session: Session, row: MemoryDocumentRow, chunks: Sequence[Chunk], vectors: NDArray[np.float32]
) -> None:
    """Keep the vectors of a version that is live or tried."""
    session.flush()
    rows = [
        {
            **_name(row),
            "chunk": chunk.number,
            "marked": bool(chunk.marks),
            "embedder": row.embedder,
            "embedding": _written(vector),
        }
        for chunk, vector in zip(chunks, vectors, strict=True)
    ]
    session.connection().execute(_PUT, rows)


def drop(session: Session, row: MemoryDocumentRow) -> None:
    """Delete the vectors of a version that is found no more."""
    session.connection().execute(_DROP, _name(row))


def prepare(engine: Engine, keys: MemoryKeys, embedder: Embedder) -> int:
    """Make the extension and the table, fill it from the documents, and return how many passages were written.

    Raises:
        MemoryVectorsError: the database is no PostgreSQL, has no such extension, or does not let its user make it.
        KeyUnavailableError: a document was sealed with another key.
    """
    if engine.dialect.name != "postgresql":
        raise MemoryVectorsError(
            "vectors can be compared in PostgreSQL alone; with SQLite leave DISCREET_MEMORY__VECTORS at here"
        )
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            connection.execute(text(_TABLE))
    except DBAPIError as error:
        raise MemoryVectorsError(
            f"the extension vector (pgvector) cannot be made in this database ({type(error.orig).__name__}); install "
            "it on the server and let a database administrator run CREATE EXTENSION vector"
        ) from error
    return fill(engine, keys, embedder)


def fill(engine: Engine, keys: MemoryKeys, embedder: Embedder) -> int:
    """Write the vectors of what is live or tried into the table, and return how many passages were written.

    Embedding takes long and holds up nobody; each write looks, under the lock that every change of the tenant's memory
    takes, at what is live still. So nothing of what was removed meanwhile is written, and nothing fails for it. What is
    approved meanwhile writes its own: whoever has the lock after us sees the table.

    Raises:
        KeyUnavailableError: a document was sealed with another key.
    """
    written = 0
    with reading(engine) as session:
        tenants = tenants_with_memory(session)
    for tenant_id in sorted(tenants):
        with transaction(engine) as session:
            policies.lock_tenant(session, tenant_id)
            names = [(*row_name(row)[:2], row.version) for row in listed(session, tenant_id, tried=True)]
        for start in range(0, len(names), AT_ONCE):
            written += _fill_some(engine, keys, embedder, tenant_id, names[start : start + AT_ONCE])
    return written


def _fill_some(
    engine: Engine,
    keys: MemoryKeys,
    embedder: Embedder,
    tenant_id: str,
    names: Sequence[tuple[str, str, int]],
) -> int:
    made: dict[tuple[str, str, int], tuple[Sequence[Chunk], NDArray[np.float32]]] = {}
    with reading(engine) as session:
        rows = [row for name in names if (row := _live(session, tenant_id, name)) is not None]
    for row in rows:
        document = opened(row, keys)
        if row.vectors is not None and row.embedder == embedder.name:
            plain = keys.open(row.vectors, row.tenant_id, *row_name(row), "vectors")
            vectors = vectors_of(plain, row.chunks)
        else:
            vectors = embedder.embed([embedded_text(document.title, one) for one in document.chunks])
        made[row.collection, row.document_id, row.version] = document.chunks, vectors
    written = 0
    with transaction(engine) as session:
        policies.lock_tenant(session, tenant_id)
        for name, (chunks, vectors) in made.items():
            live = _live(session, tenant_id, name)
            if live is None:
                continue
            if live.vectors is None or live.embedder != embedder.name:
                live.embedder = embedder.name
                live.vectors = keys.seal(vector_bytes(vectors), tenant_id, *row_name(live), "vectors")
                session.add(live)
            put(session, live, chunks, vectors)
            written += live.chunks
    return written


def _live(session: Session, tenant_id: str, name: tuple[str, str, int]) -> MemoryDocumentRow | None:
    row = session.get(MemoryDocumentRow, (tenant_id, *name))
    return row if row is not None and row.state in {State.LIVE, State.CANDIDATE} else None


class PgVectors:
    """Finds by meaning in the database; for ``MemorySearch``.

    Args:
        engine: of the database, which ``prepare`` has made ready.
        embedder: name of what makes the vectors.

    Raises:
        MemoryVectorsError: it has not.
    """

    holds_vectors = False

    def __init__(self, engine: Engine, embedder: str) -> None:
        with reading(engine) as session:
            if not kept_here(session):
                raise MemoryVectorsError(
                    "the database keeps no vectors; run `discreet memory prepare`, or leave "
                    "DISCREET_MEMORY__VECTORS at here"
                )
        self._engine = engine
        self._embedder = embedder

    def nearest(
        self,
        tenant_id: str,
        index: TenantIndex,
        vector: NDArray[np.float32],
        domain: str,
        now: datetime,
        drawn: Collection[Candidate],
    ) -> NDArray[np.float32]:
        """Return the similarity of each row of the index; −1 for all but the nearest that may be sent."""
        asked: dict[str, Any] = {
            "tenant_id": tenant_id,
            "embedder": self._embedder,
            "vector": _written(vector),
            "collections": sorted(index.collections_for(domain)),
            "drawn": [one.collection for one in drawn],
            "now": now,
            "most": CANDIDATES,
        }
        found = np.full(len(index.passages), -1, np.float32)
        with reading(self._engine) as session:
            for collection, document_id, version, chunk, similarity in session.connection().execute(
                text(NEAREST), asked
            ):
                at = index.rows.get((collection, document_id, version, chunk))
                if at is not None:  # else it changed since the index was read, a moment ago
                    found[at] = similarity
        return found


def _name(row: MemoryDocumentRow) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "collection": row.collection,
        "document_id": row.document_id,
        "version": row.version,
    }


def _written(vector: NDArray[np.float32]) -> str:
    return "[" + ",".join(f"{value:.6g}" for value in vector) + "]"
