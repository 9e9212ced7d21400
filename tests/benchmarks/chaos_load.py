"""What a chaos run publishes, from a seed: events of every topic a worker reads, and what may become of each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

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


@dataclass(frozen=True)
class Sent:
    """One published event.

    Attributes:
        name: its ``ce_id``, and in a header of the harness's own, which survives in a dead letter.
        kind: interaction, consent, erasure or ack.
        letters: reasons for which it may be dead-lettered; empty: it must have its effect.
        effect: it may have an effect.
        record: as it goes to the broker.
    """

    name: str
    kind: str
    letters: frozenset[str]
    effect: bool
    record: Record

    def digest(self, hashes: TenantHashes) -> bytes:
        """Return the identity of the event, as the worker stores it; ``hashes`` are those of the one tenant."""
        owner, _, user = self.record.key.decode().partition("/")
        user = user.partition("/")[0]  # a consent's key ends with its purpose
        subject = owner, hashes.pseudonym(user) if user else ""
        return event_digest(self.record.topic, subject, sender_digest(SOURCE, self.name))


NOW = datetime.now(UTC)
MISTIMED = frozenset({"in_the_future", "too_late"})


def _sent(
    name: str, kind: str, data, event_type: str, *, letters=frozenset(), effect: bool = True, value=None
) -> Sent:
    envelope = new_envelope(event_id=name, source=SOURCE, event_type=event_type, time=data.occurred_at)
    record = encode(data, envelope)
    record = record._replace(
        value=record.value if value is None else value,
        headers=[*record.headers, (NAME_HEADER, name.encode())],
    )
    return Sent(name, kind, frozenset(letters), effect, record)


def _consent(seed: int, user: str) -> Sent:
    data = ConsentV1(
        tenant_id="acme",
        user_id=user,
        purpose=ConsentPurpose.TRAINING,
        notice_version="1",
        occurred_at=datetime.now(UTC),
    )
    return _sent(f"{seed}-consent-{user}", "consent", data, CONSENT_GRANTED)


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


def _interaction(name: str, user: str, kind: str, choice: random.Random) -> Sent:
    data = InteractionV1(
        tenant_id="nobody" if kind == "tenant" else "acme",
        user_id=user,
        interaction_id=name,
        prompt="How do I reset it?",
        completion="Hold the button for ten seconds.",
        outcome=Accepted(),
        notice_version="1",
        occurred_at=datetime.now(UTC),
    )
    letters = {
        "good": frozenset({"consent_missing"}),  # only where the consent came after the wait was over
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
        effect=kind == "good",
        value=value,
    )


def load(seed: int, interactions: int) -> Iterator[Sent]:
    """Yield the events of one run in the order of publishing; a repeated one comes twice under one name."""
    choice = random.Random(seed + 1)
    consents = [_consent(seed, f"user-{seed}-{number}") for number in range(USERS)]
    others = [_erasure(seed, number) for number in range(4)] + [_ack(seed, number) for number in range(4)]
    choice.shuffle(others)
    for number in range(interactions):
        # Only every third run has users who never consent: each of their events waits for its whole time.
        kind = choice.choices(("good", "malformed", "tenant", "consent"), (90, 4, 3, 3 * (seed % 3 == 0)))[0]
        name = f"{seed}-{number}"
        user = f"stranger-{name}" if kind == "consent" else f"user-{seed}-{choice.randrange(USERS)}"
        sent = _interaction(name, user, kind, choice)
        yield sent
        if kind == "good" and choice.random() < 0.05:
            yield sent
        if number % 3 == 0 and consents:
            yield consents.pop()
        if number % 20 == 7 and others:
            other = others.pop()
            yield other
            if choice.random() < 0.3:
                yield other
    yield from consents + others
