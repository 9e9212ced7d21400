"""Keep what was admitted: bound, redact, seal and insert, in one call and the caller's transaction.

What no plan learns from (a rejection, a middling rating, an empty answer) is an accepted event and no signal: it is not
stored and takes no place in its user's bound.

Order of arrival does not matter, because the bound keeps each user's smallest ranks whatever their order. Only what
enters the bound is redacted and sealed. Statements are per batch, never per signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from personalization.signals.rows import apply_bound, insert_signals
from personalization.signals.values import LEARNED, OutcomeKind, Signal, StoredSignal, lesson, row_of
from personalization.training.jobs.job import learns_from
from privacy.keys.batch_locks import join_batches
from privacy.keys.keyring import Plaintext
from privacy.storage.subjects import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlmodel import Session

    from personalization.signals.rows import UserPeriod
    from privacy.keys.keyring import Keyring

    Redact = Callable[[Sequence[str]], Sequence[str]]

_ACCEPTED = OutcomeKind.ACCEPTED
_new = tuple.__new__  # makes a named tuple at half the cost of a call of its class


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
    join_batches(session, (one.subject.tenant_id for one in offered))  # before what it drives out is deleted
    chosen = [one for one in offered if teaches(one.turn)]
    users = _by_user(chosen)
    outside = apply_bound(session, chosen, users, bounds)
    if outside:
        chosen = [one for one in chosen if one.event_digest not in outside]
        users = _by_user(chosen)
    subjects = [Subject(tenant_id, pseudonym) for tenant_id, pseudonym, _ in users]
    sealed = keyring.encrypt_many(session, _texts(chosen, redact), of=subjects, now=now)
    signals: list[StoredSignal] = [
        _new(
            StoredSignal,
            (digest, tenant_id, pseudonym, turn.domain, period, rank, turn.occurred_at, ciphertext),
        )
        for (digest, (tenant_id, pseudonym), period, rank, turn), ciphertext in zip(
            chosen, sealed, strict=True
        )
    ]
    insert_signals(session, [signals[place] for places in users.values() for place in places])


def _by_user(offered: Sequence[Offered]) -> dict[UserPeriod, list[int]]:
    """Return the places of each user's in ``offered``; the users in the order of the index, so that rows go in fast."""
    users: dict[UserPeriod, list[int]] = {}
    for place, (_, (tenant_id, pseudonym), period, _, _) in enumerate(offered):
        users.setdefault((tenant_id, pseudonym, period), []).append(place)
    return dict(sorted(users.items()))


def _texts(offered: Iterable[Offered], redact: Redact) -> Iterator[Plaintext]:
    """Yield what is to be sealed, each redacted when it is asked for: its text is still at hand then."""
    for digest, (tenant_id, pseudonym), period, rank, turn in offered:
        row = row_of(digest, turn.domain, period, rank, turn.occurred_at)
        yield _new(Plaintext, (tenant_id, pseudonym, row, signal_of(turn, redact).to_bytes()))


def teaches(turn: Turn) -> bool:
    """Say whether training learns anything from an interaction. Redaction changes nothing about it."""
    if turn.outcome is _ACCEPTED and turn.completion:  # nearly all are; ``lesson`` says the same
        return True
    kind = lesson(turn.outcome, turn.completion, turn.final_text, turn.rating)
    return kind is not None and learns_from(LEARNED, kind)


def signal_of(turn: Turn, redact: Redact) -> Signal:
    """Return the signal of an interaction, every text of it redacted."""
    final_text = turn.final_text
    if final_text is None:
        prompt, completion = redact((turn.prompt, turn.completion))
    else:
        prompt, completion, final_text = redact((turn.prompt, turn.completion, final_text))
    return _new(Signal, (prompt, completion, turn.outcome, final_text, turn.rating, turn.served_name))
