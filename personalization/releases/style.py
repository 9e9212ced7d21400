"""The style vote of a round: from its sealed data to a card, and from the card to what the version says of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from personalization.adapters.manifest import StyleFacts
from personalization.errors import StyleCardError
from personalization.registry import queries as registry
from personalization.styles.card import StyleCard
from personalization.styles.discovery import discover
from personalization.styles.frames import is_poor
from personalization.styles.grammar import constraint_of
from personalization.styles.prompting import template_of
from personalization.styles.votes import StyleText, UserTexts
from personalization.training.jobs.job import ExampleKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlmodel import Session

    from personalization.releases.terms import Terms
    from personalization.styles.edits import StyleEdits
    from personalization.training.jobs.job import PublicPartFacts, UserExamples


MOST_REMEMBERED: Final = 11  # cards beside the newest; of twelve each still has six made-up texts


def vote_on_style(
    terms: Terms, users: Sequence[UserExamples], key: bytes, *, voters: int
) -> StyleCard | None:
    """Return the card of a round whose terms pay for a vote; the same for every repeat from the same seal and seed.

    Args:
        terms: what the round is frozen to; they were reserved before the users were read.
        users: of the sealed snapshot.
        key: 32 secret bytes of this round's vote alone.
        voters: the count with noise that was released before.
    """
    vote = terms.style_vote
    if vote is None:
        return None
    return discover(
        [texts_of(user) for user in users],
        vote,
        key,
        declared_users=terms.declared_users,
        voters=max(1, voters),
        edits=terms.style_edits,
        terms=terms.votes_on_terms,
        glossary=terms.glossary,
    )


def earlier_cards(session: Session, version_ids: Sequence[str], edits: StyleEdits) -> dict[str, StyleCard]:
    """Return the style cards of a line's earlier versions by version id, as people decided since.

    A version without a card, with one that tells too little, or with one that cannot be read is left out, and of the
    others all but the newest ``MOST_REMEMBERED``. What people had fixed then counts only as far as it still is.

    Args:
        session: the caller's transaction.
        version_ids: oldest first.
        edits: what is decided now.
    """
    found: dict[str, StyleCard] = {}
    for version_id in version_ids:
        style = registry.read_version(registry.find_version(session, version_id)).manifest.style
        if style is None:
            continue
        with suppress(StyleCardError):
            card = StyleCard.from_document(style.card)
            voted = tuple(one for one in card.entries if not one.pinned)
            decided = edits.applied_to(replace(card, entries=voted))
            if not is_poor(decided):
                found[version_id] = decided
    return dict(list(found.items())[-MOST_REMEMBERED:])


def texts_of(user: UserExamples) -> UserTexts:
    """Return the answers that a user kept; a rejected one says nothing about how answers look."""
    return UserTexts(
        texts=tuple(
            StyleText(prompt=one.prompt, final=one.completion, shown=one.shown)
            for one in user.examples
            if one.kind is not ExampleKind.UNLIKELIHOOD
        )
    )


def style_facts(card: StyleCard | None, public_part: PublicPartFacts | None) -> StyleFacts | None:
    """Return what a version says of the card it was made with."""
    if card is None:
        return None
    constraint = constraint_of(card)
    return StyleFacts(
        card=card.to_document(),
        card_digest=card.digest(),
        prompt=template_of(card),
        pattern=constraint.pattern,
        grammar=constraint.grammar,
        public_part=None if public_part is None else public_part.to_document(),
    )
