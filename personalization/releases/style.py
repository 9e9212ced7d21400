"""The style vote of a round: from its sealed data to a card, and from the card to what the version says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import StyleFacts
from personalization.styles.card import StyleCard
from personalization.styles.discovery import discover
from personalization.styles.grammar import constraint_of
from personalization.styles.prompting import template_of
from personalization.styles.remembered import averaged
from personalization.styles.votes import StyleText, UserTexts
from personalization.training.jobs.job import ExampleKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.adapters.manifest import AdapterVersion
    from personalization.releases.terms import Terms
    from personalization.training.jobs.job import PublicPartFacts, UserExamples


def vote_on_style(
    terms: Terms,
    users: Sequence[UserExamples],
    key: bytes,
    *,
    voters: int,
    earlier: StyleCard | None = None,
) -> StyleCard | None:
    """Return the card of a round whose terms pay for a vote; the same for every repeat from the same seal and seed.

    Args:
        terms: what the round is frozen to; they were reserved before the users were read.
        users: of the sealed snapshot.
        key: 32 secret bytes of this round's vote alone.
        voters: the count with noise that was released before.
        earlier: the released card that the terms say is remembered.
    """
    vote = terms.style_vote
    if vote is None:
        return None
    found = discover(
        [texts_of(user) for user in users],
        vote,
        key,
        declared_users=terms.declared_users,
        voters=max(1, voters),
        terms=terms.votes_on_terms,
        glossary=terms.glossary,
    )
    return terms.style_edits.applied_to(found if earlier is None else averaged(found, earlier))


def card_of(version: AdapterVersion) -> StyleCard | None:
    """Return the card that a version carries, if it carries one."""
    style = version.manifest.style
    return None if style is None else StyleCard.from_document(style.card)


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
