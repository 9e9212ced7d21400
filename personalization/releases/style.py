"""The style vote of a round: from its sealed data to a card, and from the card to what the version says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import StyleFacts
from personalization.errors import StyleCardError
from personalization.registry import queries as registry
from personalization.starts.choosing import averaged_in
from personalization.styles.card import StyleCard
from personalization.styles.discovery import discover
from personalization.styles.families import Feature
from personalization.styles.grammar import constraint_of
from personalization.styles.prompting import template_of
from personalization.styles.votes import StyleText, UserTexts
from personalization.training.jobs.job import ExampleKind, PublicPartFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlmodel import Session

    from personalization.releases.terms import Terms
    from personalization.styles.edits import StyleEdits
    from personalization.training.jobs.job import UserExamples
    from privacy.policy.values import TenantPrivacyPolicy


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


def remembered_parts(
    session: Session, policy: TenantPrivacyPolicy, source: str | None, edits: StyleEdits
) -> int:
    """Return how many releases' public parts are in that of ``source`` and go on in the next one; 0 makes it anew.

    They go on where the line remembers, as long as people decide nothing against one of their cards: no entry can be
    taken out of a mean of weights.

    Args:
        session: the caller's transaction.
        policy: the tenant's.
        source: the version that is averaged into the release.
        edits: what people have decided by now.
    """
    if source is None or not (policy.remember and policy.styles):
        return 0
    part = public_part_of(session, source)
    if part is None:
        return 0
    try:
        stands = all(_stands(card, edits) for card in cards_in(session, source))
    except StyleCardError:
        return 0  # of one that cannot be read nobody knows what it told
    return part.remembered + 1 if stands else 0


def public_part_of(session: Session, version_id: str) -> PublicPartFacts | None:
    """Return what a version tells of its public part; None where it has none."""
    style = registry.read_version(registry.find_version(session, version_id)).manifest.style
    return None if style is None or style.public_part is None else PublicPartFacts(**style.public_part)


def cards_in(session: Session, version_id: str) -> Iterator[StyleCard]:
    """Yield the cards that a version's public part was made of, the newest first: of a line that remembers many.

    Args:
        session: the caller's transaction.
        version_id: of a version that carries a card.

    Raises:
        StyleCardError: one of them cannot be read.
    """
    part = public_part_of(session, version_id)
    left = 0 if part is None else part.remembered + 1
    for one in reversed(averaged_in(session, version_id)):
        if not left:
            return
        style = registry.read_version(registry.find_version(session, one)).manifest.style
        its_part = public_part_of(session, one)
        if style is not None and its_part is not None and its_part.pairs:  # else it made none of its own
            yield StyleCard.from_document(style.card)
            left -= 1


def _stands(card: StyleCard, edits: StyleEdits) -> bool:
    """Say whether all of a card that texts are made of is as people want it by now."""
    fixed = {one.handle for one in edits.pinned}
    return all(
        one.handle in fixed if one.pinned else one.handle not in edits.removed
        for one in card.entries
        if one.feature is not Feature.TERM
    )


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
