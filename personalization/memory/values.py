"""What is remembered and what is found, as values. Documents are a tenant's approved ones, never its users' words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from personalization.errors import MemoryDocumentError

DEFAULT_COLLECTION: Final = "default"
DOCUMENT_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?\Z")
COLLECTION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
MOST_CHARACTERS: Final = 1_000_000
LONGEST_LINE: Final = 500  # of a title or a source


class State(StrEnum):
    """What became of a version of a document."""

    LIVE = "live"
    SUPERSEDED = "superseded"  # another one took its place, or a roll-back set it aside; it may come back
    REMOVED = "removed"  # for good
    CANDIDATE = "candidate"  # a share of the subjects is answered from it


class Fate(StrEnum):
    """What adding a document did."""

    ADDED = "added"
    SUPERSEDED = "superseded"  # the version before it
    UNCHANGED = "unchanged"


class Outcome(StrEnum):
    """What looking something up came to."""

    FOUND = "found"
    NOTHING_FOUND = "nothing_found"
    NO_MEMORY = "no_memory"  # the tenant has no documents for the domain
    AWAY = "away"  # the memory could not be asked in time


class Unsigned(StrEnum):
    """What a question was not looked up in, because it is not what was signed."""

    COLLECTION = "collection"
    CANDIDATE = "candidate"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A document as it is approved.

    Attributes:
        document_id: its name in headers and audits; letters, digits and ``. _ / -``.
        title: stands before each of its passages.
        text: what it says.
        source: where it comes from, for people.
        valid_until: from then on nothing of it is found; ``None`` for no end.
        accept_marked: send passages too that look as if they gave a model orders; somebody read them.

    Raises:
        MemoryDocumentError: one of these is not what is allowed.
    """

    document_id: str
    title: str
    text: str
    source: str = ""
    valid_until: datetime | None = None
    accept_marked: bool = False

    def __post_init__(self) -> None:
        if not DOCUMENT_ID.match(self.document_id) or ".." in self.document_id:
            raise MemoryDocumentError(
                f"document id is {self.document_id[:80]!r}; allowed are 1 to 128 letters, digits and . _ / - without "
                ".., with a letter or digit at both ends"
            )
        for name, line in (("title", self.title), ("source", self.source)):
            if len(line) > LONGEST_LINE or "\n" in line:
                raise MemoryDocumentError(
                    f"{name} has {len(line)} characters; allowed is one line of at most {LONGEST_LINE}"
                )
        if not self.text.strip() or len(self.text) > MOST_CHARACTERS:
            raise MemoryDocumentError(
                f"the text has {len(self.text)} characters; allowed are 1 to {MOST_CHARACTERS:,} and not blanks alone; "
                "split it into several documents"
            )
        if self.valid_until is not None and self.valid_until.tzinfo is None:
            raise MemoryDocumentError("valid_until has no time zone; give one, such as 2027-01-31T00:00:00Z")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a document that can be sent by itself.

    Attributes:
        number: of the document, from 0 on.
        section: heading above it; empty where there is none.
        text: as it is sent.
        start: first character in the document's cleaned text.
        end: the character after its last.
        marks: why it looks like orders to a model; empty for most.
    """

    number: int
    section: str
    text: str
    start: int
    end: int
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A live version of a document, opened.

    Attributes:
        collection: which.
        document_id: which.
        version: counts from 1 on; never used again, not even after a removal.
        title: before each passage.
        source: for people.
        chunks: in their order.
        added_at: when this version was approved.
        valid_until: see ``Draft``.
        accepted: whether its marked passages are sent.
    """

    collection: str
    document_id: str
    version: int
    title: str
    source: str
    chunks: tuple[Chunk, ...]
    added_at: datetime
    valid_until: datetime | None
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One found piece with all that a citation needs.

    Attributes:
        document: whose piece.
        chunk: which.
        score: of the fusion; larger is better.
        similarity: of meanings, −1 to 1; ``None`` without an embedder.
    """

    document: Remembered
    chunk: Chunk
    score: float
    similarity: float | None = None

    @property
    def citation(self) -> str:
        """Names the passage: ``collection/document@version#start-end``; it holds nothing of the text."""
        of, piece = self.document, self.chunk
        return f"{of.collection}/{of.document_id}@{of.version}#{piece.start}-{piece.end}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What looking something up came to.

    Attributes:
        outcome: in a word.
        passages: the best first.
        by_meaning: whether meanings were compared, or words alone.
        nearest: similarity of the best candidate even where it was not near enough; ``None`` without an embedder.
        versions: of the collections that were looked in, as ``default@7``; ``default@7~8`` with the candidate 8.
        candidates: that who asks was drawn for, as ``default@8``.
        unsigned: kinds of what was left out for its signature; who asks is not told.
    """

    outcome: Outcome
    passages: tuple[Passage, ...] = ()
    by_meaning: bool = False
    nearest: float | None = None
    versions: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    unsigned: frozenset[Unsigned] = frozenset()

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON has it, with what the passages say."""
        return {
            "outcome": self.outcome.value,
            "by_meaning": self.by_meaning,
            "nearest": None if self.nearest is None else round(self.nearest, 4),
            "versions": list(self.versions),
            "candidates": list(self.candidates),
            "passages": [
                {
                    "citation": one.citation,
                    "title": one.document.title,
                    "section": one.chunk.section,
                    "text": one.chunk.text,
                    "source": one.document.source,
                    "as_of": one.document.added_at.isoformat(),
                    "score": round(one.score, 5),
                    "similarity": None if one.similarity is None else round(one.similarity, 4),
                }
                for one in self.passages
            ],
        }


AWAY: Final = Found(outcome=Outcome.AWAY)
