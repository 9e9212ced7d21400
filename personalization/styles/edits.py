"""What people decided about a tenant's style card: entries struck, entries fixed. Public acts, so they cost nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from personalization.styles.card import StyleEntry
from personalization.styles.families import Feature

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard


@dataclass(frozen=True, kw_only=True)
class StyleEdits:
    """Decisions about one line's card.

    Attributes:
        removed: names of entries that are struck whenever they are found.
        pinned: entries that stand in every card, found or not.
    """

    removed: tuple[str, ...] = ()
    pinned: tuple[StyleEntry, ...] = ()

    def applied_to(self, card: StyleCard) -> StyleCard:
        """Return the card as people decided it should be."""
        fixed = {one.name for one in self.pinned}
        struck = set(self.removed)
        kept = [one for one in card.entries if one.name not in struck | fixed]
        found = tuple(sorted(struck & {one.name for one in card.entries}))
        return replace(card, entries=(*(replace(one, pinned=True) for one in self.pinned), *kept), removed=found)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to equal edits."""
        pinned = [
            {"feature": one.feature.value, "depth": one.depth, "key": one.key, "words": one.words, "share": one.share}
            for one in self.pinned
        ]
        return {"removed": list(self.removed), "pinned": pinned}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> StyleEdits:
        """Read ``to_document``'s form.

        Raises:
            StyleCardError: an entry is none that a card can hold.
        """
        return cls(
            removed=tuple(document.get("removed", ())),
            pinned=tuple(
                StyleEntry(**{**one, "feature": Feature(one["feature"])}, sureness=0.0, pinned=True)
                for one in document.get("pinned", ())
            ),
        )
