"""The private read: the signals of a line's users as a release trains on them, once it was charged."""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict, deque
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import orjson
from sqlalchemy import select

from personalization.signals.rows import SignalRow
from personalization.signals.values import Signal, row_of
from personalization.training.jobs.job import Example, ExampleKind, UserExamples
from privacy.consent import statements as consents
from privacy.keys.batch_locks import join_batches
from privacy.keys.keyring import Sealed
from privacy.keys.renaming import hold_names
from privacy.policy.values import DataPurpose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Table
    from sqlmodel import Session

    from privacy.keys.keyring import Keyring

_TABLE: Table = SignalRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
_OF_ROW = ("event_digest", "domain", "period_index", "rank", "occurred_at")


class SignalReader(Protocol):
    """Decrypts the signals of a tenant's users (``privacy.keys.keyring.Keyring`` does)."""

    def decrypt_many(self, session: Session, tenant_id: str, items: Sequence[Sealed]) -> list[bytes | None]:
        """Return the plaintext of each; ``None`` where the user's key is gone."""


def load_training_users(
    session: Session,
    tenant_id: str,
    domain: str,
    *,
    retention: timedelta,
    contribution_bound: int,
    keyring: SignalReader,
    now: datetime,
    until: datetime | None = None,
    also: DataPurpose | None = None,
) -> tuple[UserExamples, ...]:
    """Return the examples of a line's users, ordered by pseudonym, without any identifier.

    Only users who consent to training now, only signals inside the retention, and of each user at
    most ``contribution_bound`` examples in all: those of smallest rank over every period, so that one
    user's gradient rests on no more than that. A signal that teaches nothing (ingest kept such ones once) takes no
    place among them, and a user who has no other is not among the users.

    Args:
        session: inside the caller's transaction.
        tenant_id: text slug of the tenant.
        domain: the adapter line.
        retention: how old a signal may be.
        contribution_bound: most examples of one user.
        keyring: decrypts; a user whose key is gone has no examples.
        now: the public clock, aware UTC.
        until: signals from then on are left out; without it none are.
        also: another purpose that a user must consent to now.
    """
    statement = (
        select(_TABLE.c.pseudonym, _TABLE.c.ciphertext, *(_TABLE.c[name] for name in _OF_ROW))
        .where(
            _TABLE.c.tenant_id == tenant_id,
            _TABLE.c.domain == domain,
            _TABLE.c.occurred_at >= now - retention,
        )
        .order_by(_TABLE.c.pseudonym, _TABLE.c.rank, _TABLE.c.event_digest)
    )
    if until is not None:
        statement = statement.where(_TABLE.c.occurred_at < until)
    join_batches(session, [tenant_id])
    hold_names(session, tenant_id)  # signals and consents are two statements; a user has one name in both
    agreed = consents.consenting(session, tenant_id, DataPurpose.TRAINING)
    if also is not None:
        agreed &= consents.consenting(session, tenant_id, also)
    stored: dict[str, deque[Sealed]] = defaultdict(deque)
    for pseudonym, ciphertext, digest, line, period, rank, occurred_at in session.execute(statement):
        if pseudonym in agreed:
            row = row_of(bytes(digest), line, period, bytes(rank), occurred_at)
            stored[pseudonym].append(Sealed(pseudonym, row, bytes(ciphertext)))
    return _within_bound(session, tenant_id, stored, contribution_bound, keyring)


def _within_bound(
    session: Session,
    tenant_id: str,
    stored: dict[str, deque[Sealed]],
    bound: int,
    keyring: SignalReader,
) -> tuple[UserExamples, ...]:
    """Return of each user the first ``bound`` examples; nothing is decrypted that cannot be among them."""
    examples: dict[str, list[Example]] = {pseudonym: [] for pseudonym in sorted(stored)}
    while stored:
        chosen = [
            waiting.popleft()
            for pseudonym, waiting in stored.items()
            for _ in range(min(len(waiting), bound - len(examples[pseudonym])))
        ]
        for sealed, plaintext in zip(chosen, keyring.decrypt_many(session, tenant_id, chosen), strict=True):
            example = Signal.from_bytes(plaintext).example() if plaintext is not None else None
            if example is not None:
                examples[sealed.pseudonym].append(example)
        # Another turn, for those alone whose place something took that teaches nothing.
        stored = {
            pseudonym: waiting
            for pseudonym, waiting in stored.items()
            if waiting and len(examples[pseudonym]) < bound
        }
    return tuple(UserExamples(examples=tuple(found)) for found in examples.values() if found)


@dataclass(frozen=True, kw_only=True)
class TrainingSnapshot:
    """All training data of one release, frozen: users in a deterministic order, without identifiers."""

    users: tuple[UserExamples, ...] = field(repr=False)
    data_digest: str  # digest under the round's own secret key: it says nothing without that key

    def to_bytes(self) -> bytes:
        """Return everything as JSON, for sealing; ``from_bytes`` reads it back to an equal snapshot."""
        users = [[asdict(example) for example in user.examples] for user in self.users]
        return orjson.dumps({"users": users, "data_digest": self.data_digest})

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainingSnapshot:
        """Read what ``to_bytes`` wrote."""
        document = orjson.loads(data)
        return cls(
            users=tuple(
                UserExamples(
                    examples=tuple(Example(**{**one, "kind": ExampleKind(one["kind"])}) for one in user)
                )
                for user in document["users"]
            ),
            data_digest=document["data_digest"],
        )


class SignalSource(Protocol):
    """Reads the live, consented signals of a line. Calling it is the private read: only after ``start``."""

    def load(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        *,
        now: datetime,
        retention: timedelta,
        contribution_bound: int,
        digest_key: bytes,
    ) -> TrainingSnapshot:
        """Return at most ``contribution_bound`` examples of each user, and their digest under ``digest_key``."""


class WindowSource(Protocol):
    """Reads the live, consented signals of a line in a window. Calling it is the private read: only after ``start``."""

    def window(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        *,
        since: datetime,
        until: datetime,
        contribution_bound: int,
        also: DataPurpose | None = None,
    ) -> tuple[UserExamples, ...]:
        """Return at most ``contribution_bound`` examples of each user that occurred in [``since``, ``until``).

        ``also`` is another purpose, beside training, that a user must consent to.
        """


class StoredSignals:
    """``SignalSource`` and ``WindowSource`` over the signal table."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def load(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        *,
        now: datetime,
        retention: timedelta,
        contribution_bound: int,
        digest_key: bytes,
    ) -> TrainingSnapshot:
        """Return at most ``contribution_bound`` examples of each user; this is the private read.

        ``digest_key`` must be secret and belong to one round alone: the digest goes into the ledger and the
        published manifest, and under a key used twice equal digests would tell that nobody joined or left.
        """
        users = load_training_users(
            session,
            tenant_id,
            domain,
            retention=retention,
            contribution_bound=contribution_bound,
            keyring=self._keyring,
            now=now,
        )
        return TrainingSnapshot(users=users, data_digest=data_digest(digest_key, users))

    def window(
        self,
        session: Session,
        tenant_id: str,
        domain: str,
        *,
        since: datetime,
        until: datetime,
        contribution_bound: int,
        also: DataPurpose | None = None,
    ) -> tuple[UserExamples, ...]:
        """Return at most ``contribution_bound`` examples of each user in a window; this is the private read."""
        return load_training_users(
            session,
            tenant_id,
            domain,
            retention=until - since,
            contribution_bound=contribution_bound,
            keyring=self._keyring,
            now=until,
            until=until,
            also=also,
        )


def data_digest(key: bytes, users: Sequence[UserExamples]) -> str:
    """Return a keyed digest of training data: equal data give equal digests."""
    state = hmac.new(key, digestmod=hashlib.sha256)
    for user in users:
        state.update(len(user.examples).to_bytes(4, "big"))
        for example in user.examples:
            for text in (example.kind.value, example.prompt, example.completion, example.shown or ""):
                encoded = text.encode()
                state.update(len(encoded).to_bytes(4, "big") + encoded)
    return "sha256:" + state.hexdigest()
