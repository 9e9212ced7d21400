"""From a record to a typed event or to the reason why there is none, and from an event to a record.

``decode_…`` never raises on what came over the wire. Validation runs in pydantic's compiled validator
straight from the JSON bytes, so no dict is built in between; a refused event costs more than an accepted
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from . import topics
from .ack import ServingAckV1
from .adapter import AdapterEventV1, AdapterStateV1
from .anchor import AnchorOffsetsV1, AnchorTenantV1, ErasedV1
from .consent import ConsentV1
from .dead_letter import DeadLetterReason
from .envelope import DEFAULT_MAX_EVENT_BYTES, Envelope, Invalid, RawHeaders, new_envelope, read_envelope
from .erasure import ErasureCompletedV1, ErasureRequestedV1
from .errors import InvalidEventError
from .fields import WireModel
from .interaction import InteractionV1

Event = TypeVar("Event", bound=WireModel)

MAX_ADAPTER_BYTES = 524_288
"""Largest value of an adapter event or state, in bytes."""


class Decoded(NamedTuple, Generic[Event]):
    """A valid event with its envelope."""

    data: Event
    envelope: Envelope


class Record(NamedTuple):
    """An event ready to be sent; a tombstone has no value."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]


EVENT_MODELS: Mapping[str, type[WireModel]] = {
    topics.INTERACTION_RECORDED: InteractionV1,
    topics.CONSENT_GRANTED: ConsentV1,
    topics.CONSENT_WITHDRAWN: ConsentV1,
    topics.ERASURE_REQUESTED: ErasureRequestedV1,
    topics.ERASURE_COMPLETED: ErasureCompletedV1,
    topics.ADAPTER_STATE: AdapterStateV1,
    **dict.fromkeys(topics.ADAPTER_EVENTS.event_types, AdapterEventV1),
    **dict.fromkeys(topics.SERVING_ACKS.event_types, ServingAckV1),
    topics.ANCHOR_TENANT: AnchorTenantV1,
    topics.ANCHOR_OFFSETS: AnchorOffsetsV1,
    topics.USER_ERASED: ErasedV1,
}
"""Which model describes the data of which event type."""

_TOPIC_OF_TYPE = {event_type: topic for topic in topics.TOPICS for event_type in topic.event_types}
_INTERACTION_TYPES: Mapping[str, type[InteractionV1]] = {topics.INTERACTION_RECORDED: InteractionV1}
_CONSENT_TYPES: Mapping[str, type[ConsentV1]] = dict.fromkeys(topics.CONSENT.event_types, ConsentV1)
_ERASURE_TYPES: Mapping[str, type[ErasureRequestedV1 | ErasureCompletedV1]] = {
    topics.ERASURE_REQUESTED: ErasureRequestedV1,
    topics.ERASURE_COMPLETED: ErasureCompletedV1,
}
_STATE_TYPES: Mapping[str, type[AdapterStateV1]] = {topics.ADAPTER_STATE: AdapterStateV1}
_ADAPTER_TYPES: Mapping[str, type[AdapterEventV1]] = dict.fromkeys(
    topics.ADAPTER_EVENTS.event_types, AdapterEventV1
)
_ANCHOR_TYPES: Mapping[str, type[AnchorTenantV1 | AnchorOffsetsV1]] = {
    topics.ANCHOR_TENANT: AnchorTenantV1,
    topics.ANCHOR_OFFSETS: AnchorOffsetsV1,
}
_ERASED_TYPES: Mapping[str, type[ErasedV1]] = {topics.USER_ERASED: ErasedV1}
_ACK_TYPES: Mapping[str, type[ServingAckV1]] = dict.fromkeys(topics.SERVING_ACKS.event_types, ServingAckV1)


def decode_interaction(
    headers: RawHeaders,
    value: bytes | None,
    *,
    key: bytes | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
) -> Decoded[InteractionV1] | Invalid:
    """Read a record of the interactions topic.

    Args:
        headers: record headers, as a mapping or as pairs.
        value: record value; ``None`` is refused, the topic has no tombstones.
        key: record key; when given it must be ``tenant/user`` of the event.
        max_bytes: largest accepted value.
    """
    decoded = _decode(_INTERACTION_TYPES, headers, value, max_bytes)
    if key is not None and isinstance(decoded, Decoded):
        data = decoded.data
        if key != f"{data.tenant_id}/{data.user_id}".encode():
            return _KEY_MISMATCH
    return decoded


def decode_consent(
    headers: RawHeaders,
    value: bytes | None,
    *,
    key: bytes | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
) -> Decoded[ConsentV1] | Invalid:
    """Read a record of the consent topic; ``envelope.type`` tells a grant from a withdrawal."""
    decoded = _decode(_CONSENT_TYPES, headers, value, max_bytes)
    if key is not None and isinstance(decoded, Decoded) and key != record_key(decoded.data):
        return _KEY_MISMATCH
    return decoded


def decode_erasure(
    headers: RawHeaders,
    value: bytes | None,
    *,
    key: bytes | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
) -> Decoded[ErasureRequestedV1 | ErasureCompletedV1] | Invalid:
    """Read a record of the erasures topic: a request or its answer."""
    decoded = _decode(_ERASURE_TYPES, headers, value, max_bytes)
    if key is not None and isinstance(decoded, Decoded):
        data = decoded.data
        if isinstance(data, ErasureRequestedV1):
            if key != record_key(data):
                return _KEY_MISMATCH
        elif not key.startswith(f"{data.tenant_id}/".encode()):
            return _KEY_MISMATCH
    return decoded


def decode_adapter_state(
    headers: RawHeaders, value: bytes | None, *, key: bytes | None = None
) -> Decoded[AdapterStateV1] | Invalid:
    """Read a record of the compacted adapters topic; tombstones are for the caller to tell apart."""
    return _check_line(_decode(_STATE_TYPES, headers, value, MAX_ADAPTER_BYTES), key)


def decode_adapter_event(
    headers: RawHeaders, value: bytes | None, *, key: bytes | None = None
) -> Decoded[AdapterEventV1] | Invalid:
    """Read a record of the adapter-events topic."""
    return _check_line(_decode(_ADAPTER_TYPES, headers, value, MAX_ADAPTER_BYTES), key)


def decode_ack(
    headers: RawHeaders,
    value: bytes | None,
    *,
    key: bytes | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
) -> Decoded[ServingAckV1] | Invalid:
    """Read a record of the serving-acks topic; the status must be the one that ``ce_type`` names."""
    decoded = _check_line(_decode(_ACK_TYPES, headers, value, max_bytes), key)
    if isinstance(decoded, Decoded) and decoded.data.status.event_type != decoded.envelope.type:
        return Invalid(DeadLetterReason.SCHEMA_VIOLATION, "status: is not the one that ce_type names")
    return decoded


def decode_anchor(
    headers: RawHeaders, value: bytes | None, *, key: bytes | None = None
) -> Decoded[AnchorTenantV1 | AnchorOffsetsV1] | Invalid:
    """Read a record of the anchor topic."""
    return _check_line(_decode(_ANCHOR_TYPES, headers, value, MAX_ADAPTER_BYTES), key)


def decode_erased(
    headers: RawHeaders, value: bytes | None, *, key: bytes | None = None
) -> Decoded[ErasedV1] | Invalid:
    """Read a record of the register of erasures."""
    return _check_line(_decode(_ERASED_TYPES, headers, value, MAX_ADAPTER_BYTES), key)


def encode(
    event: WireModel,
    envelope: Envelope,
    *,
    key: bytes | None = None,
    max_bytes: int | None = None,
) -> Record:
    """Turn an event into a record in binary mode.

    Args:
        event: the data; an object made by its constructor is valid already.
        envelope: its attributes; the type decides the topic.
        key: record key; needed only where the data do not hold it (an erasure's answer).
        max_bytes: largest value; by default that of the event's topic.

    Raises:
        InvalidEventError: if the type is unknown, belongs to another model, or the value is too large.
    """
    topic = _TOPIC_OF_TYPE.get(envelope.type)
    if topic is None or not isinstance(event, EVENT_MODELS[envelope.type]):
        raise InvalidEventError(f"{type(event).__name__} cannot be sent as {envelope.type}")
    if max_bytes is None:
        large = (topics.ADAPTER_EVENTS, topics.ADAPTERS, topics.ANCHOR)
        max_bytes = MAX_ADAPTER_BYTES if topic in large else DEFAULT_MAX_EVENT_BYTES
    value = event.model_dump_json().encode()
    if len(value) > max_bytes:
        raise InvalidEventError(
            f"the {envelope.type} event has {len(value)} bytes; at most {max_bytes} are allowed"
        )
    return Record(topic.name, record_key(event) if key is None else key, value, envelope.headers())


def tombstone(line_ref: str, epoch: int, *, event_id: str, source: str, time: datetime) -> Record:
    """Make the record that withdraws a line from the compacted topic.

    It has no value, so its epoch stands in the envelope's ``sequence``.
    """
    envelope = new_envelope(
        event_id=event_id, source=source, event_type=topics.ADAPTER_STATE, time=time, sequence=epoch
    )
    return Record(topics.ADAPTERS.name, line_ref.encode(), None, envelope.headers())


def record_key(event: WireModel) -> bytes:
    """Return the record key that belongs to an event's data.

    Raises:
        InvalidEventError: if the data do not determine the key (an erasure's answer repeats its request's).
    """
    match event:
        case InteractionV1() | ErasureRequestedV1():
            return f"{event.tenant_id}/{event.user_id}".encode()
        case ConsentV1():
            return f"{event.tenant_id}/{event.user_id}/{event.purpose.value}".encode()
        case AdapterEventV1() | AdapterStateV1() | ServingAckV1():
            return event.line_ref.encode()
        case AnchorTenantV1():
            return f"{event.group}/tenant/{event.owner}".encode()
        case AnchorOffsetsV1():
            return f"{event.group}/offsets".encode()
        case ErasedV1():
            return f"{event.group}/{event.tenant_id}/{event.pseudonym}".encode()
        case _:
            raise InvalidEventError(f"the record key of {type(event).__name__} must be given")


_KEY_MISMATCH = Invalid(DeadLetterReason.KEY_MISMATCH, "the record key is not the one that the data call for")


def _check_line(decoded: Decoded[Event] | Invalid, key: bytes | None) -> Decoded[Event] | Invalid:
    if key is not None and isinstance(decoded, Decoded) and key != record_key(decoded.data):
        return _KEY_MISMATCH
    return decoded


def _decode(
    models: Mapping[str, type[Event]], headers: RawHeaders, value: bytes | None, max_bytes: int
) -> Decoded[Event] | Invalid:
    if value is None:
        return Invalid(DeadLetterReason.EMPTY, "the record has no value")
    if len(value) > max_bytes:
        return Invalid(
            DeadLetterReason.OVERSIZED, f"the value has {len(value)} bytes; at most {max_bytes} are allowed"
        )
    read = read_envelope(headers, value)
    if isinstance(read, Invalid):
        return read
    envelope, data = read
    model = models.get(envelope.type)
    if model is None:
        return Invalid(DeadLetterReason.TYPE_UNKNOWN, "ce_type is not one of this topic")
    try:
        return Decoded(model.model_validate_json(data), envelope)
    except ValidationError as invalid:
        return _refusal(invalid)


def _refusal(invalid: ValidationError) -> Invalid:
    # Locations and rule names only: values, and keys of the sender's own making, may hold personal text.
    first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Invalid(DeadLetterReason.JSON_INVALID, "the data are not JSON")
    where = ".".join(str(part) for part in first["loc"])
    return Invalid(DeadLetterReason.SCHEMA_VIOLATION, f"{where or 'data'}: {first['type']}")
