"""Keep what was admitted: bound, redact, seal and insert, in one call and the caller's transaction.

What no plan learns from (a rejection, a middling rating, an empty answer) is an accepted event and no signal: it is not
stored and takes no place in its user's bound.

Order of arrival does not matter, because the bound keeps each user's smallest ranks whatever their order. Only what
enters the bound is redacted and sealed. Statements are per batch, never per signal.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Protocol

from personalization.signals.bound import Contribution
from personalization.signals.rows import apply_bound, insert_signals
from personalization.signals.values import LEARNED, Signal, StoredSignal, lesson, row_of
from personalization.training.jobs.job import learns_from
from privacy.keys.batch_locks import join_batches
from privacy.keys.keyring import Plaintext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.signals.rows import UserPeriod
    from personalization.signals.values import OutcomeKind
    from privacy.keys.keyring import Keyring
    from privacy.storage.subjects import Subject

    Redact = Callable[[Sequence[str]], Sequence[str]]


class Turn(Protocol):
    """What is kept of one interaction, before it is redacted; ``Signal`` says what the fields mean."""

    @property
    def domain(self) -> str:
        """The adapter line."""

    @property
    def occurred_at(self) -> datetime:
        """When it happened, aware UTC."""

    @property
    def prompt(self) -> str:
        """What the model was asked."""

    @property
    def completion(self) -> str:
        """What the user was shown."""

    @property
    def outcome(self) -> OutcomeKind:
        """What the user did with it."""

    @property
    def final_text(self) -> str | None:
        """What the user made of it."""

    @property
    def rating(self) -> int | None:
        """1 to 5."""

    @property
    def served_name(self) -> str | None:
        """The adapter version that answered."""


class Offered(NamedTuple):
    """One admitted interaction, before the bound has spoken.

    Attributes:
        event_digest: identity of the event; unique in a batch.
        subject: tenant and pseudonym of the user.
        period_index: budget period in which it happened.
        rank: decides what of a user is kept; the smallest are.
        turn: what to keep.
    """

    event_digest: bytes
    subject: Subject
    period_index: int
    rank: bytes
    turn: Turn


def keep(
    session: Session,
    offered: Sequence[Offered],
    bounds: Mapping[str, int],
    *,
    redact: Redact,
    keyring: Keyring,
    now: datetime,
) -> None:
    """Store the signals of those of ``offered`` that enter their user's bound; what they drive out is deleted.

    Args:
        session: inside the caller's transaction.
        offered: admitted interactions.
        bounds: each tenant's contribution bound.
        redact: takes personal data out of the texts of one interaction.
        keyring: encrypts under each user's own key.
        now: the clock.
    """
    join_batches(session, {one.subject.tenant_id for one in offered})  # before what it drives out is deleted
    offered = [one for one in offered if teaches(one.turn)]
    contributions: dict[UserPeriod, list[Contribution]] = defaultdict(list)
    for digest, subject, period, rank, _ in offered:
        contributions[*subject, period].append(Contribution(rank, digest))
    entering = apply_bound(session, contributions, bounds)
    chosen = [one for one in offered if one.event_digest in entering]
    sealed = keyring.encrypt_many(
        session,
        [
            Plaintext(
                *subject,
                row_of(digest, turn.domain, period, rank, turn.occurred_at),
                signal_of(turn, redact).to_bytes(),
            )
            for digest, subject, period, rank, turn in chosen
        ],
        now=now,
    )
    signals = [
        StoredSignal(digest, *subject, turn.domain, period, rank, turn.occurred_at, ciphertext)
        for (digest, subject, period, rank, turn), ciphertext in zip(chosen, sealed, strict=True)
    ]
    insert_signals(session, signals)


def teaches(turn: Turn) -> bool:
    """Say whether training learns anything from an interaction. Redaction changes nothing about it."""
    kind = lesson(turn.outcome, turn.completion, turn.final_text, turn.rating)
    return kind is not None and learns_from(LEARNED, kind)


def signal_of(turn: Turn, redact: Redact) -> Signal:
    """Return the signal of an interaction, every text of it redacted."""
    texts = [turn.prompt, turn.completion]
    if turn.final_text is not None:
        texts.append(turn.final_text)
    prompt, completion, *rest = redact(texts)
    return Signal(prompt, completion, turn.outcome, rest[0] if rest else None, turn.rating, turn.served_name)
