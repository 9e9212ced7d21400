"""A signal: one interaction reduced to what training needs, and what training makes of it."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

import orjson

from personalization.planning.plan import Objective
from personalization.training.jobs.job import Example, ExampleKind, learns_from

LEARNED: Final = Objective.SFT
"""What every plan learns by (``planning.planner`` proposes no other). What it learns nothing from is no signal: it
takes no place in a user's bound, and a user who has nothing else is not in the cohort."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROW_HEAD: Final = struct.Struct(">6sqqH").pack  # a word, period, microseconds, length of the digest
_LENGTH: Final = struct.Struct(">H").pack
DISLIKED_RATING = 2
LIKED_RATING = 4


class OutcomeKind(StrEnum):
    """What the user did with the completion."""

    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"
    RATING = "rating"
    CORRECTION = "correction"


_CORRECTED = frozenset({OutcomeKind.EDITED, OutcomeKind.CORRECTION})


def acceptance(outcome: OutcomeKind, rating: int | None) -> int:
    """Return how well a user took an answer, in quarters: 0 (rejected) to 4 (accepted); what was changed is half."""
    if outcome is OutcomeKind.RATING:
        return min(max((rating or 1) - 1, 0), 4)
    if outcome in _CORRECTED:
        return 2
    return 4 if outcome is OutcomeKind.ACCEPTED else 0


class Signal(NamedTuple):
    """What is kept of one interaction (redacted text; the user is named by the row that stores it).

    Attributes:
        prompt: what the model was asked.
        completion: what the user was shown.
        outcome: what the user did with it.
        final_text: what the user made of it (edited, correction).
        rating: 1 to 5 (rating).
        served_name: the adapter version that answered; ``None`` for the base model.
    """

    prompt: str
    completion: str
    outcome: OutcomeKind
    final_text: str | None = None
    rating: int | None = None
    served_name: str | None = None

    def to_bytes(self) -> bytes:
        """Return canonical JSON, the plaintext that is stored encrypted."""
        return orjson.dumps(
            {
                "p": self.prompt,
                "c": self.completion,
                "o": self.outcome,
                "f": self.final_text,
                "r": self.rating,
                "s": self.served_name,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Signal:
        """Read back what ``to_bytes`` wrote.

        Raises:
            ValueError: the bytes are not a signal.
        """
        try:
            document = orjson.loads(data)
            return cls(
                prompt=document["p"],
                completion=document["c"],
                outcome=OutcomeKind(document["o"]),
                final_text=document["f"],
                rating=document["r"],
                served_name=document["s"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError("these bytes are not a signal") from error

    def example(self, objective: Objective = LEARNED) -> Example | None:
        """Return what training makes of the signal; ``None`` when the objective learns nothing from it."""
        kind = lesson(self.outcome, self.completion, self.final_text, self.rating)
        if kind is None or not learns_from(objective, kind):
            return None
        if self.final_text is None or self.outcome not in _CORRECTED:
            return Example(prompt=self.prompt, completion=self.completion, kind=kind)
        shown = self.completion if kind is ExampleKind.PREFERENCE else None
        return Example(prompt=self.prompt, completion=self.final_text, kind=kind, shown=shown)


def lesson(
    outcome: OutcomeKind, completion: str, final_text: str | None, rating: int | None
) -> ExampleKind | None:
    """Return what an interaction asks of the model; ``None`` when it asks nothing. ``Signal`` names the parts."""
    if outcome in _CORRECTED:
        if not final_text:
            return None
        corrects = completion and completion != final_text
        return ExampleKind.PREFERENCE if corrects else ExampleKind.SFT
    liked: bool | None = outcome is not OutcomeKind.REJECTED
    if outcome is OutcomeKind.RATING:
        liked = _liked(rating)
    if liked is None or not completion:
        return None
    return ExampleKind.SFT if liked else ExampleKind.UNLIKELIHOOD


def _liked(rating: int | None) -> bool | None:
    """Return what a rating says about the completion; ``None`` when it says nothing."""
    if rating is None or DISLIKED_RATING < rating < LIKED_RATING:
        return None
    return rating >= LIKED_RATING


def row_of(event_digest: bytes, domain: str, period_index: int, rank: bytes, occurred_at: datetime) -> bytes:
    """Return what the ciphertext of a signal is bound to, besides its user: everything that its row says of it.

    So nobody who can write to the database makes one text stand for another, or in another line, period or time.
    """
    since = occurred_at - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    head = _ROW_HEAD(b"signal", period_index, microseconds, len(event_digest))
    return b"".join((head, event_digest, _after_its_length(domain), _LENGTH(len(rank)), rank))


@lru_cache(maxsize=1024)  # few, and each in every row of its line
def _after_its_length(domain: str) -> bytes:
    name = domain.encode()
    return _LENGTH(len(name)) + name


class StoredSignal(NamedTuple):
    """A signal as it is stored: where it belongs, and its ciphertext.

    Attributes:
        event_digest: 32-byte identity of the event it came from.
        tenant_id: text slug of the tenant.
        pseudonym: the tenant's name for the user.
        domain: the adapter line that learns from it.
        period_index: budget period of the interaction's own time.
        rank: place in the user's order, see ``privacy.keys.pseudonyms.eviction_rank``.
        occurred_at: the interaction's own time, aware UTC.
        ciphertext: the encrypted ``Signal.to_bytes``.
    """

    event_digest: bytes
    tenant_id: str
    pseudonym: str
    domain: str
    period_index: int
    rank: bytes
    occurred_at: datetime
    ciphertext: bytes
