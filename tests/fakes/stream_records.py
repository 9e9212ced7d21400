"""Records, events and senders for tests of the worker, without a broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from streams.broker.records import Blame, SendFailure
from streams.contracts.ack import AckStatus, ServingAckV1
from streams.contracts.codec import encode
from streams.contracts.consent import ConsentPurpose, ConsentV1
from streams.contracts.envelope import new_envelope
from streams.contracts.erasure import ErasureRequestedV1
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import (
    CONSENT_GRANTED,
    CONSENT_WITHDRAWN,
    ERASURE_REQUESTED,
    INTERACTION_RECORDED,
)
from streams.errors import BrokerUnavailableError

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class FakeRecord:
    """A record as a consumer hands it over."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str = "discreet.interactions.v1"
    partition: int = 0
    offset: int = 0
    timestamp: int = 1_772_443_800_000


@dataclass
class FakeSender:
    """Keeps what was sent; ``away`` makes it refuse, ``spoils`` (a record → a failure or nothing) fails a whole batch.

    A producer of Kafka may do so: after one record failed for good, all others of the batch fail with its error.
    """

    sent: list = field(default_factory=list)
    away: bool = False
    spoils: object = None

    def send_all(self, records):
        if self.away:
            raise BrokerUnavailableError("the broker is away; start it")
        self.sent.extend(records)

    def send_each(self, records):
        if self.away:
            return [SendFailure(Blame.BROKER, "KafkaTimeoutError")] * len(records)
        failures = [self.spoils(record) for record in records] if self.spoils else []
        first = next(filter(None, failures), None)
        if first is None:
            self.sent.extend(records)
            return [None] * len(records)
        return [failure or first for failure in failures]

    @property
    def reasons(self):
        return [dict(record.headers)["discreet_dlq_reason"].decode() for record in self.sent]


def _record(event, event_type, event_id, offset):
    envelope = new_envelope(event_id=event_id, source="urn:test", event_type=event_type, time=NOW)
    encoded = encode(event, envelope)
    return FakeRecord(encoded.value, encoded.key, tuple(encoded.headers), encoded.topic, 0, offset)


def interaction(user="ada", event_id="e1", *, tenant="acme", offset=0, at=NOW, prompt="say hi", **fields):
    data = InteractionV1(
        tenant_id=tenant,
        user_id=user,
        interaction_id=event_id,
        prompt=prompt,
        completion=fields.pop("completion", "hi"),
        outcome=fields.pop("outcome", Accepted()),
        notice_version="1",
        occurred_at=at,
        **fields,
    )
    return _record(data, INTERACTION_RECORDED, event_id, offset)


def consent(user="ada", *, tenant="acme", granted=True, offset=0, at=NOW, purpose=ConsentPurpose.TRAINING):
    data = ConsentV1(tenant_id=tenant, user_id=user, purpose=purpose, notice_version="1", occurred_at=at)
    event_type = CONSENT_GRANTED if granted else CONSENT_WITHDRAWN
    return _record(data, event_type, f"consent-{tenant}-{user}-{purpose}-{granted}-{offset}", offset)


def erasure(user="ada", *, tenant="acme", request_id="r1", offset=0, at=NOW):
    data = ErasureRequestedV1(tenant_id=tenant, user_id=user, request_id=request_id, occurred_at=at)
    return _record(data, ERASURE_REQUESTED, request_id, offset)


def ack(event_id="a1", *, status=AckStatus.LOADED, offset=0, at=NOW):
    data = ServingAckV1(
        line_ref="000000000001",
        version_id="sha256:" + 64 * "1",
        served_name="a-000000000001-v1",
        status=status,
        server_id="gpu-1",
        engine="vllm",
        epoch=1,
        occurred_at=at,
    )
    return _record(data, status.event_type, event_id, offset)
