"""The style card: what a vote found out about how a tenant's answers look, with shares and how sure they are.

A card is released: everything in it was paid for. It may hold words that many users share, so it is the tenant's own.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final

from personalization.errors import StyleCardError
from personalization.styles.families import LONGEST_KEY, Feature
from privacy.canonical import digest_of

FORMAT: Final = "discreet.style-card.v1"
MOST_ENTRIES: Final = 96
MOST_TERMS: Final = 32  # of them
SMALLEST_SHARE: Final = 0.05  # of answers; rarer frames are left out of what is made of a card
HANDLE_LENGTH: Final = 12
_LONGEST: Final = 2 * LONGEST_KEY


@dataclass(frozen=True, kw_only=True)
class StyleEntry:
    """One thing that was found.

    Attributes:
        feature: what it is about.
        depth: of a frame: how many slots it holds.
        key: the frame's shape, or the value.
        words: of the frame's innermost slot; empty where none were found.
        share: of answers, with noise, 0 to 1.
        sureness: standard deviations of the noise between it and its threshold.
        pinned: whether a person fixed it.
    """

    feature: Feature
    depth: int = 1
    key: str
    words: str = ""
    share: float
    sureness: float
    pinned: bool = False

    def __post_init__(self) -> None:
        kinds = ((self.key, str), (self.words, str), (self.depth, int), (self.pinned, bool))
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise StyleCardError("an entry of the style card holds a value of another kind")
        if not (0 <= self.share <= 1 and math.isfinite(self.sureness) and 1 <= self.depth <= 8):
            raise StyleCardError("an entry of the style card has a share or sureness that no vote gives")
        if len(self.key) > _LONGEST or len(self.words) > _LONGEST:
            raise StyleCardError("an entry of the style card is longer than any that a vote gives")

    @property
    def name(self) -> str:
        """What people call the entry by: feature, depth, shape and words."""
        return "/".join(part for part in (self.feature.value, str(self.depth), self.key, self.words) if part)

    @property
    def handle(self) -> str:
        """A short digest of the name, by which people point at the entry and by which a struck one is known."""
        parts = (self.feature.value, str(self.depth), self.key, self.words)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:HANDLE_LENGTH]


@dataclass(frozen=True, kw_only=True)
class StyleCard:
    """All that one vote found.

    Attributes:
        entries: by feature, depth and share.
        voters: about how many users voted, with noise.
        noise_multiplier: of the vote.
        delta: of the vote: the chance that something of one user's alone is told.
        removed: handles of entries that were found and that a person had struck.
    """

    entries: tuple[StyleEntry, ...]
    voters: int
    noise_multiplier: float
    delta: float
    removed: tuple[str, ...] = ()

    def of(self, feature: Feature, depth: int | None = None) -> tuple[StyleEntry, ...]:
        """Return the entries of one feature, at one depth or all, the most common first."""
        found = (one for one in self.entries if one.feature is feature and depth in {None, one.depth})
        return tuple(sorted(found, key=lambda one: (-one.share, one.key, one.words)))

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the card: its version."""
        return digest_of(self.to_document(), ascii_only=True)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal card."""
        return {
            "format": FORMAT,
            "voters": self.voters,
            "noise_multiplier": self.noise_multiplier,
            "delta": self.delta,
            "removed": list(self.removed),
            "entries": [
                {
                    "feature": one.feature.value,
                    "depth": one.depth,
                    "key": one.key,
                    "words": one.words,
                    "share": one.share,
                    "sureness": one.sureness,
                    "pinned": one.pinned,
                }
                for one in self.entries
            ],
        }

    @classmethod
    def from_document(cls, document: object) -> StyleCard:
        """Read ``to_document``'s form.

        Raises:
            StyleCardError: it is no card of this format.
        """
        try:
            if not isinstance(document, dict) or document.get("format") != FORMAT:
                raise StyleCardError(f"a style card's format is {FORMAT}; this document has another")
            entries = document["entries"]
            if len(entries) > MOST_ENTRIES:
                raise StyleCardError(f"a style card holds at most {MOST_ENTRIES} entries")
            removed = document["removed"]
            if not isinstance(removed, list) or len(removed) > MOST_ENTRIES:
                raise StyleCardError(f"a style card names at most {MOST_ENTRIES} struck entries, in a list")
            if (
                not isinstance(document["voters"], int)
                or not 0 < float(document["noise_multiplier"]) < math.inf
            ):
                raise StyleCardError("a style card tells whole voters, and noise that is above 0 and finite")
            return cls(
                entries=tuple(StyleEntry(**{**one, "feature": Feature(one["feature"])}) for one in entries),
                voters=document["voters"],
                noise_multiplier=float(document["noise_multiplier"]),
                delta=float(document["delta"]),
                removed=tuple(str(handle)[:HANDLE_LENGTH] for handle in removed),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StyleCardError("the style card cannot be read; it is damaged") from error
