"""Look something up in one tenant's memory: what is live now, by words and by meaning, or "nothing found".

Each search first asks the database which versions its tenant's collections have, so a change counts for the next
question and not after some seconds; and each looks at one tenant's index alone, which was read with the tenant's name
in the query and opened with the tenant's own key.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from personalization.memory import candidates
from personalization.memory.chunking import embedded_text
from personalization.memory.cleaning import cleaned
from personalization.memory.index import TenantIndex, read_index, standing_of
from personalization.memory.ranking import best, fused, names_occur, without_asker, words_of
from personalization.memory.values import Found, Outcome, Passage
from privacy.storage.session import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from numpy.typing import NDArray
    from sqlalchemy.engine import Engine

    from personalization.memory.candidates import Candidate
    from personalization.memory.embedding import Embedder
    from personalization.memory.index import Within
    from personalization.memory.sealing import MemoryKeys

LONGEST_QUERY: Final = (
    2_000  # characters; the question stands at the end of a long prompt as often as at its start
)


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """When a passage is near enough, and how many are found.

    Attributes:
        passages: most; a small model copies from one and mixes several up.
        floor: smallest similarity of meanings; off-topic questions stay below it.
        word_floor: smallest share of the question's words, the rare ones counting more, that a passage must have to be
            found by words: one word in common by chance says less than a meaning.
        names: whether every name that is asked about must occur in the passage.
    """

    passages: int = 1
    floor: float = 0.30
    word_floor: float = 0.5
    names: bool = True


class Near(Protocol):
    """Finds the passages whose meaning is nearest, where that is not done in this process."""

    @property
    def holds_vectors(self) -> bool:
        """Whether indexes must hold vectors for it."""

    def nearest(
        self,
        tenant_id: str,
        index: TenantIndex,
        vector: NDArray[np.float32],
        domain: str,
        now: datetime,
        drawn: Collection[Candidate],
    ) -> NDArray[np.float32]:
        """Return the similarity of each row of the index; −1 for those that are not near."""


class MemorySearch:
    """Searches the memories of tenants; safe to share between threads.

    Args:
        engine: of the database.
        keys: open documents.
        embedder: compares meanings; ``None`` compares words alone.
        rules: when something is found.
        most_chunks: passages kept in this process at once; the tenants asked longest ago go first.
        near: finds by meaning elsewhere (pgvector); by default here.
    """

    def __init__(
        self,
        engine: Engine,
        keys: MemoryKeys,
        embedder: Embedder | None,
        *,
        rules: SearchRules | None = None,
        most_chunks: int = 500_000,
        near: Near | None = None,
    ) -> None:
        self.rules = rules or SearchRules()
        self._engine = engine
        self._keys = keys
        self._embedder = embedder
        self._most = most_chunks
        self._near: Near = near or _Here()
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, TenantIndex] = OrderedDict()
        self._reading: dict[str, threading.Lock] = {}

    def find(
        self,
        tenant_id: str,
        domain: str,
        question: str,
        now: datetime,
        *,
        most: int | None = None,
        within: Within | None = None,
    ) -> Found:
        """Return what a tenant's memory holds on a question.

        Args:
            tenant_id: whose memory; nobody else's is looked at.
            domain: of the tenant's lines; collections of another domain are left out.
            question: as the user asked it.
            now: aware UTC; documents that ended before are not found.
            most: passages; by default the rules' number.
            within: draws who asks for candidates; without it nobody is answered from one.

        Raises:
            StorageError: the database cannot be read.
            KeyUnavailableError: a document was sealed with another key.
        """
        index = self.index(tenant_id)
        drawn = index.drawn_for(domain, within)
        alive = index.alive(domain, now, drawn)
        looked_in, names = index.versions_for(domain, drawn), tuple(one.name for one in drawn)
        unsigned = index.unsigned_for(domain)
        if not alive.any():
            return Found(
                outcome=Outcome.NO_MEMORY,
                by_meaning=self._embedder is not None,
                versions=looked_in,
                candidates=names,
                unsigned=unsigned,
            )
        alive &= index.sendable()
        question = without_asker(cleaned(question))
        if len(question) > LONGEST_QUERY:
            question = question[: LONGEST_QUERY // 2] + "\n" + question[-LONGEST_QUERY // 2 :]
        words = words_of(question)
        by_words = [
            row
            for row in best(index.words.scores(words, alive))
            if index.words.known(words, row, alive) >= self.rules.word_floor
        ]
        similar = None
        if self._embedder is not None:
            vector = self._embedder.embed([question])[0]
            near = self._near.nearest(tenant_id, index, vector, domain, now, drawn)
            similar = np.where(alive, near, np.float32(-1))
        ranking = fused(by_words, [] if similar is None else best(similar))
        found = self._passages(index, ranking, similar, question, most or self.rules.passages)
        return Found(
            outcome=Outcome.FOUND if found else Outcome.NOTHING_FOUND,
            passages=found,
            by_meaning=similar is not None,
            nearest=None if similar is None or not len(similar) else float(similar.max()),
            versions=looked_in,
            candidates=names,
            unsigned=unsigned,
        )

    def index(self, tenant_id: str) -> TenantIndex:
        """Return a tenant's index as the database has it now.

        Raises:
            StorageError: the database cannot be read.
            KeyUnavailableError: a document was sealed with another key.
        """
        with self._lock:
            alone = self._reading.setdefault(tenant_id, threading.Lock())
        with alone:  # of several questions after a change one reads, the others wait for it
            with self._lock:
                known = self._indexes.get(tenant_id)
            with reading(self._engine) as session:
                if (
                    known is not None
                    and known.standing == standing_of(session, tenant_id)
                    and known.opens == candidates.opens(session, tenant_id)
                ):
                    index = known
                else:
                    embedder = self._embedder if self._near.holds_vectors else None
                    index = read_index(session, self._keys, tenant_id, embedder, known)
        with self._lock:
            self._indexes[tenant_id] = index
            self._indexes.move_to_end(tenant_id)
            while len(self._indexes) > 1 and self._held() > self._most:
                gone, _ = self._indexes.popitem(last=False)
                self._reading.pop(gone, None)
        return index

    def _held(self) -> int:
        return sum(len(one.passages) for one in self._indexes.values())

    def _passages(
        self,
        index: TenantIndex,
        ranking: dict[int, float],
        similar: NDArray[np.float32] | None,
        question: str,
        most: int,
    ) -> tuple[Passage, ...]:
        found: list[Passage] = []
        seen: set[str] = set()
        for row, score in ranking.items():
            document, chunk = index.passages[row]
            similarity = None if similar is None else float(similar[row])
            told = " ".join(words_of(chunk.text))
            if told in seen or not self._near_enough(index, row, similarity, question):
                continue
            seen.add(told)
            found.append(Passage(document=document, chunk=chunk, score=score, similarity=similarity))
            if len(found) == most:
                break
        return tuple(found)

    def _near_enough(self, index: TenantIndex, row: int, similarity: float | None, question: str) -> bool:
        document, chunk = index.passages[row]
        if self.rules.names and not names_occur(question, embedded_text(document.title, chunk)):
            return False
        return similarity is None or similarity >= self.rules.floor


class _Here:
    """Compares with every vector in memory: exact, 8 ms for 100,000."""

    holds_vectors = True

    def nearest(
        self,
        tenant_id: str,
        index: TenantIndex,
        vector: NDArray[np.float32],
        domain: str,
        now: datetime,
        drawn: Collection[Candidate],
    ) -> NDArray[np.float32]:
        """Return the similarity of each row."""
        del (
            tenant_id,
            domain,
            now,
            drawn,
        )  # the index is one tenant's, and whoever asks knows what of it is alive
        if index.vectors is None:
            return np.full(len(index.passages), -1, np.float32)
        found: NDArray[np.float32] = index.vectors @ vector
        return found
