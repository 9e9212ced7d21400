"""What a chaos run publishes, from a seed: events of every topic a worker reads, and what may become of each.

Beside what every product sends: users and tenants whose products give out the same ids, consents whose clock is far
ahead, users who are erased after they gave something, and a tenant most of whose events are refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from privacy.keys.pseudonyms import TenantHashes
from streams.contracts.ack import AckStatus, ServingAckV1
from streams.contracts.codec import Record, encode
from streams.contracts.consent import ConsentPurpose, ConsentV1
from streams.contracts.envelope import new_envelope, sender_digest
from streams.contracts.erasure import ErasureRequestedV1
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import CONSENT_GRANTED, ERASURE_REQUESTED, INTERACTION_RECORDED
from streams.ingest.identity import event_digest

SOURCE = "urn:chaos"
NAME_HEADER = "chaos_id"
USERS = 40
TENANTS = ("acme", "beta", "hog")
HOG_EVERY = 4  # seeds: in each such run one tenant floods the others with what is refused
HOG_BURST = 12  # of its events between two of the others'


@dataclass(frozen=True)
class Sent:
    """One published event.

    Attributes:
        name: in a header of the harness's own, which survives in a dead letter.
        kind: interaction, consent, erasure or ack.
        letters: reasons for which it may be dead-lettered; empty: it must have its effect.
        effect: it may have an effect.
        record: as it goes to the broker.
        event_id: its ``ce_id``; events of other users and tenants may have the same.
        left: its user is erased after it; what it left must be gone in the end, whatever came first.
    """

    name: str
    kind: str
    letters: frozenset[str]
    effect: bool
    record: Record
    event_id: str
    left: bool = False

    @property
    def owner(self) -> str:
        """The tenant that it is of; of an acknowledgement, the adapter line."""
        return self.record.key.decode().partition("/")[0]

    def digest(self, hashes: dict[str, TenantHashes]) -> bytes:
        """Return the identity of the event, as the worker stores it; ``hashes`` are those of the tenants."""
        user = self.record.key.decode().partition("/")[2]
        user = user.partition("/")[0]  # a consent's key ends with its purpose
        subject = self.owner, hashes[self.owner].pseudonym(user) if user and self.owner in hashes else ""
        return event_digest(self.record.topic, subject, sender_digest(SOURCE, self.event_id))


NOW = datetime.now(UTC)
MISTIMED = frozenset({"in_the_future", "too_late"})


def _sent(
    name: str,
    kind: str,
    data,
    event_type: str,
    *,
    letters=frozenset(),
    effect: bool = True,
    value=None,
    event_id: str | None = None,
    left: bool = False,
) -> Sent:
    event_id = event_id or name
    envelope = new_envelope(event_id=event_id, source=SOURCE, event_type=event_type, time=datetime.now(UTC))
    record = encode(data, envelope)
    record = record._replace(
        value=record.value if value is None else value,
        headers=[*record.headers, (NAME_HEADER, name.encode())],
    )
    return Sent(name, kind, frozenset(letters), effect, record, event_id, left)


def _consent(
    seed: int, user: str, tenant: str = "acme", *, ahead: timedelta = timedelta(), left: bool = False
) -> Sent:
    data = ConsentV1(
        tenant_id=tenant,
        user_id=user,
        purpose=ConsentPurpose.TRAINING,
        notice_version="1",
        occurred_at=datetime.now(UTC) + ahead,
    )
    letters = {"in_the_future"} if ahead else {"user_erased"} if left else set()
    name = f"{seed}-consent-{tenant}-{user}"
    return _sent(
        name,
        "consent",
        data,
        CONSENT_GRANTED,
        letters=letters,
        effect=not ahead,
        event_id=f"{seed}-consent-{user}",
    )


def _erasure(seed: int, number: int) -> Sent:
    data = ErasureRequestedV1(
        tenant_id="acme",
        user_id=f"leaver-{seed}-{number}",
        request_id=f"erasure-{seed}-{number}",
        occurred_at=datetime.now(UTC),
    )
    return _sent(f"{seed}-erasure-{number}", "erasure", data, ERASURE_REQUESTED)


def _ack(seed: int, number: int) -> Sent:
    data = ServingAckV1(
        line_ref=f"{seed:012d}",
        version_id="sha256:" + 64 * "1",
        served_name=f"a-{seed:012d}-v{number}",
        status=AckStatus.LOADED,
        server_id="gpu-1",
        engine="vllm",
        epoch=number,
        occurred_at=datetime.now(UTC),
    )
    return _sent(f"{seed}-ack-{number}", "ack", data, AckStatus.LOADED.event_type)


def _interaction(
    name: str,
    user: str,
    kind: str,
    choice: random.Random,
    *,
    tenant: str = "acme",
    event_id: str | None = None,
) -> Sent:
    data = InteractionV1(
        tenant_id="nobody" if kind == "tenant" else tenant,
        user_id=user,
        interaction_id=event_id or name,
        prompt="How do I reset it?",
        completion="Hold the button for ten seconds.",
        outcome=Accepted(),
        notice_version="1",
        occurred_at=datetime.now(UTC),
    )
    letters = {
        "good": frozenset({"consent_missing"}),  # only where the consent came after the wait was over
        "leaving": frozenset({"consent_missing", "user_erased"}),
        "malformed": frozenset({"json_invalid", "schema_violation"}),
        "tenant": frozenset({"tenant_unknown"}),
        "consent": frozenset({"consent_missing"}),
    }[kind]
    value = choice.randbytes(40) if kind == "malformed" else None
    return _sent(
        name,
        "interaction",
        data,
        INTERACTION_RECORDED,
        letters=letters,
        effect=kind in {"good", "leaving"},
        value=value,
        event_id=event_id,
        left=kind == "leaving",
    )


def _left(seed: int, number: int, choice: random.Random) -> Iterator[Sent]:
    """Yield a user's consent and two events, and then its erasure."""
    user = f"leaver-{seed}-{number}"
    yield _consent(seed, user, left=True)
    for turn in range(2):
        yield _interaction(f"{seed}-left-{number}-{turn}", user, "leaving", choice)
    yield _erasure(seed, number)


def _flood(seed: int, number: int, choice: random.Random) -> Iterator[Sent]:
    """Yield what a tenant sends that asked none of its users."""
    for turn in range(HOG_BURST):
        name = f"{seed}-hog-{number}-{turn}"
        yield _interaction(name, f"stranger-{name}", "consent", choice, tenant="hog")


def load(seed: int, interactions: int) -> Iterator[Sent]:
    """Yield the events of one run in the order of publishing; a repeated one comes twice under one name."""
    choice = random.Random(seed + 1)
    consents = [_consent(seed, f"user-{seed}-{number}") for number in range(USERS)]
    consents += [_consent(seed, f"user-{seed}-{number}", "beta") for number in range(USERS)]
    consents.append(_consent(seed, f"stranger-{seed}-early", ahead=timedelta(days=20_000)))
    choice.shuffle(consents)
    others = [lambda number=number: _left(seed, number, choice) for number in range(4)]
    others += [lambda number=number: iter([_ack(seed, number)]) for number in range(4)]
    choice.shuffle(others)
    yield _interaction(f"{seed}-early", f"stranger-{seed}-early", "consent", choice)
    for number in range(interactions):
        # Only every third run has users who never consent: each of their events waits for its whole time.
        kind = choice.choices(("good", "malformed", "tenant", "consent"), (90, 4, 3, 3 * (seed % 3 == 0)))[0]
        name = f"{seed}-{number}"
        place = choice.randrange(USERS)
        user = f"stranger-{name}" if kind == "consent" else f"user-{seed}-{place}"
        sent = _interaction(name, user, kind, choice)
        yield sent
        if kind == "good" and choice.random() < 0.05:
            yield sent
        if kind == "good" and choice.random() < 0.05:  # products of others give out the same ids
            other = f"user-{seed}-{(place + 1) % USERS}"
            yield _interaction(f"{name}-again", other, "good", choice, event_id=name)
            yield _interaction(f"{name}-beta", user, "good", choice, tenant="beta", event_id=name)
        if seed % HOG_EVERY == 1 and number % 25 == 3:
            yield from _flood(seed, number, choice)
        for _ in range(2):
            if number % 3 == 0 and consents:
                yield consents.pop()
        if number % 20 == 7 and others:
            for other in others.pop()():
                yield other
                if choice.random() < 0.3:
                    yield other
    yield from consents
    for one in others:
        yield from one()
