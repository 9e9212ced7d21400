"""A tenant's approved documents for a recipe: approved, changed and removed as an operator does, and looked up.

Documents lie in the installation's own database, sealed with a key of this run, and prompts get their notes in the one
form that the gateway sends.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from personalization.memory import documents
from personalization.memory.embedding import bundled, bundled_embedder
from personalization.memory.rendering import note, with_notes
from personalization.memory.scrubbing import scrubbed
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch
from personalization.memory.values import DEFAULT_COLLECTION, Draft, Outcome
from privacy.policy.values import DEFAULT_DOMAIN
from privacy.storage.session import transaction
from streams.demo.tenancy import ACTOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.demo.recipes.values import Trial

KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One question with what was found for it.

    Attributes:
        prompt: as it is sent: notes, if any, and the question.
        found: names of the documents that the notes are from.
        outcome: of looking it up.
    """

    prompt: str
    found: tuple[str, ...]
    outcome: Outcome


class Notes:
    """One tenant's memory.

    Args:
        trial: whose database holds it.
        tenant: whose it is; registered.
        domain: whose questions it is looked up for; every domain's by default.
    """

    def __init__(self, trial: Trial, tenant: str, domain: str = "") -> None:
        self._engine, self._tenant, self._domain = trial.here.engine, tenant, domain
        self._keys = MemoryKeys(secrets.token_bytes(KEY_BYTES))
        self._embedder = bundled_embedder() if bundled() else None
        self._search = MemorySearch(self._engine, self._keys, self._embedder)

    @property
    def by_meaning(self) -> bool:
        """Whether meanings are compared, or words alone."""
        return self._embedder is not None

    def approve(self, texts: Mapping[str, tuple[str, str]]) -> None:
        """Approve documents, or new versions of them.

        Args:
            texts: title and text by name.
        """
        drafts = [Draft(document_id=name, title=title, text=text) for name, (title, text) in texts.items()]
        cut = documents.prepared(drafts, self._embedder)
        with transaction(self._engine) as session:
            documents.add(session, self._keys, self._place(), cut)

    def remove(self, names: Sequence[str]) -> None:
        """Remove documents."""
        with scrubbed(self._engine) as session:
            documents.remove(session, self._keys, self._place(), list(names))

    def look_up(self, question: str, *, domain: str = DEFAULT_DOMAIN) -> Looked:
        """Return a question as it is sent with what is live now."""
        found = self._search.find(self._tenant, domain, question, datetime.now(UTC))
        notes = [
            note(one.document.title, one.chunk.section, one.chunk.text, one.document.added_at.date())
            for one in found.passages
        ]
        return Looked(
            prompt=with_notes(question, notes),
            found=tuple(one.document.document_id for one in found.passages),
            outcome=found.outcome,
        )

    def _place(self) -> documents.Place:
        return documents.Place(
            tenant_id=self._tenant,
            collection=DEFAULT_COLLECTION,
            actor=ACTOR,
            now=datetime.now(UTC),
            domain=self._domain,
        )
