"""What people decided about a tenant's style card: entries struck, entries fixed. Public acts, so they cost nothing.

A struck entry is known by its handle, a digest, and no longer by its words: who strikes a name wants it gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from personalization.errors import StyleCardError
from personalization.styles.card import MOST_ENTRIES, StyleEntry
from personalization.styles.families import Feature

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard

MOST_EDITS: Final = 256


@dataclass(frozen=True, kw_only=True)
class StyleEdits:
    """Decisions about one line's card.

    Attributes:
        removed: handles of entries that are struck whenever they are found.
        pinned: entries that stand in every card, found or not.
    """

    removed: tuple[str, ...] = ()
    pinned: tuple[StyleEntry, ...] = ()

    def applied_to(self, card: StyleCard) -> StyleCard:
        """Return the card as people decided it should be; a struck entry leaves its handle in ``removed``."""
        fixed = {one.handle for one in self.pinned}
        struck = set(self.removed)
        found = {one.handle for one in card.entries}
        kept = [one for one in card.entries if one.handle not in struck | fixed]
        return replace(
            card,
            entries=(*(replace(one, pinned=True) for one in self.pinned), *kept)[:MOST_ENTRIES],
            removed=tuple(sorted(struck & found)),
        )

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to equal edits."""
        return {"removed": list(self.removed), "pinned": [pinned_document(one) for one in self.pinned]}

    @classmethod
    def from_document(cls, document: object) -> StyleEdits:
        """Read ``to_document``'s form; an empty object says that nobody decided anything.

        Raises:
            StyleCardError: an entry is none that a card can hold.
        """
        if not isinstance(document, dict):
            raise StyleCardError("edits of a style card are a JSON object; this is none")
        removed, pinned = document.get("removed", []), document.get("pinned", [])
        lists = isinstance(removed, list) and isinstance(pinned, list)
        if (
            not lists
            or len(removed) + len(pinned) > MOST_EDITS
            or not all(isinstance(one, str) for one in removed)
        ):
            raise StyleCardError(
                f"edits of a style card are two lists, of at most {MOST_EDITS} things in all"
            )
        return cls(removed=tuple(removed), pinned=tuple(pinned_entry(one) for one in pinned))


def pinned_document(entry: StyleEntry) -> dict[str, Any]:
    """Return what is kept of a fixed entry, JSON-ready."""
    return {
        "feature": entry.feature.value,
        "depth": entry.depth,
        "key": entry.key,
        "words": entry.words,
        "share": entry.share,
    }


def pinned_entry(document: object) -> StyleEntry:
    """Read ``pinned_document``'s form.

    Raises:
        StyleCardError: it is no entry that a card can hold.
    """
    try:
        if not isinstance(document, dict):
            raise StyleCardError("a fixed entry of a style card is a JSON object; this is none")
        return StyleEntry(**{**document, "feature": Feature(document["feature"])}, sureness=0.0, pinned=True)
    except (KeyError, TypeError, ValueError) as error:
        raise StyleCardError("a fixed entry of a style card cannot be read; it is damaged") from error
