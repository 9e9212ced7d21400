"""CloudEvents 1.0 over Kafka: binary mode is written, binary and structured mode are read.

In binary mode the attributes are record headers ``ce_…`` and the value is the JSON data; in structured mode
the value is one JSON object with everything in it (content type ``application/cloudevents+json``). An event
is identified by its topic, its tenant, its user where a user did it, and (``source``, ``id``): however often it
arrives, it is the same event. The same pair from another user or another tenant is another event.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from .dead_letter import DeadLetterReason
from .fields import utc_text

SPEC_VERSION = "1.0"
JSON_CONTENT_TYPE = "application/json"
STRUCTURED_CONTENT_TYPE = "application/cloudevents+json"
DEFAULT_MAX_EVENT_BYTES = 65_536
"""Largest value of one event, in bytes, unless a setting says otherwise."""

MAX_ATTRIBUTE_CHARACTERS = 256

_JSON = JSON_CONTENT_TYPE.encode()

RawHeaders: TypeAlias = Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]] | None


class Invalid(NamedTuple):
    """A message that cannot be accepted: a stable reason, and the field and rule (never the value)."""

    reason: DeadLetterReason
    detail: str


class Envelope(NamedTuple):
    """The CloudEvents attributes of one event.

    Attributes:
        id: unique within ``source`` for one user of one tenant.
        source: URI-reference of the producer.
        type: event type, ending in its major version.
        time: RFC 3339 text, when the producer made the event.
        subject: what the event is about; never a user.
        dataschema: URI of the JSON Schema of the data.
        traceparent: W3C trace context of the producer.
        tracestate: its vendor part.
        sequence: decimal number that orders events of one adapter line (the CloudEvents extension of that
            name).
    """

    id: str
    source: str
    type: str
    time: str | None = None
    subject: str | None = None
    dataschema: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    sequence: str | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the record headers of binary mode."""
        headers = [
            ("ce_specversion", SPEC_VERSION.encode()),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("content-type", JSON_CONTENT_TYPE.encode()),
        ]
        optional = (
            ("ce_time", self.time),
            ("ce_subject", self.subject),
            ("ce_dataschema", self.dataschema),
            ("ce_sequence", self.sequence),
            ("traceparent", self.traceparent),
            ("tracestate", self.tracestate),
        )
        headers.extend((name, value.encode()) for name, value in optional if value is not None)
        return headers

    def sender_digest(self) -> bytes:
        """Return what the sender calls the event, as 32 bytes, see ``sender_digest``."""
        return sender_digest(self.source, self.id)


def sender_digest(source: str, event_id: str) -> bytes:
    """Return the SHA-256 of the sender's part of an event's identity (``source``, ``event_id``), 32 bytes.

    The source's length goes first, so that no two different pairs run together into one text. Alone it identifies
    nothing: topic, tenant and user belong to it.
    """
    return sender_digest_of(source.encode(), event_id.encode())


def sender_digest_of(source: bytes, event_id: bytes) -> bytes:
    """Return ``sender_digest`` of the UTF-8 bytes of a source and an id."""
    return hashlib.sha256(len(source).to_bytes(4, "big") + source + event_id).digest()


def new_envelope(
    *,
    event_id: str,
    source: str,
    event_type: str,
    time: datetime,
    subject: str | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
    sequence: int | None = None,
) -> Envelope:
    """Make the envelope of an event that is to be sent, with the schema URI that belongs to its type."""
    return Envelope(
        id=event_id,
        source=source,
        type=event_type,
        time=utc_text(time),
        subject=subject,
        dataschema=schema_uri(event_type),
        traceparent=traceparent,
        tracestate=tracestate,
        sequence=None if sequence is None else str(sequence),
    )


def schema_uri(event_type: str) -> str:
    """Return the URI that names the JSON Schema of an event type; it is a name, not an address."""
    return f"urn:discreet:schema:{event_type}"


def read_envelope(headers: RawHeaders, value: bytes) -> tuple[Envelope, bytes] | Invalid:
    """Split a record into its envelope and the JSON text of its data, in either mode.

    Args:
        headers: record headers as a mapping or as pairs; of a repeated header the last one counts.
        value: record value.
    """
    found: Mapping[str, Any] = headers if isinstance(headers, Mapping) else dict(headers or ())
    content_type = found.get("content-type", _JSON)
    if content_type != _JSON and content_type is not None and content_type.startswith(b"application/"):
        if content_type.startswith(STRUCTURED_CONTENT_TYPE.encode()):
            return _read_structured(value)
        if not content_type.startswith(_JSON):
            return _bad("content-type: must be application/json")
    get = found.get
    try:
        if found["ce_specversion"] != b"1.0":
            return _bad("ce_specversion: must be 1.0")
        # Each attribute by name: a loop over them would take twice as long, for every event.
        envelope = Envelope(
            found["ce_id"].decode(),
            found["ce_source"].decode(),
            found["ce_type"].decode(),
            None if (time := get("ce_time")) is None else time.decode(),
            None if (subject := get("ce_subject")) is None else subject.decode(),
            None if (dataschema := get("ce_dataschema")) is None else dataschema.decode(),
            None if (traceparent := get("traceparent")) is None else traceparent.decode(),
            None if (tracestate := get("tracestate")) is None else tracestate.decode(),
            None if (sequence := get("ce_sequence")) is None else sequence.decode(),
        )
    except KeyError as missing:
        return _bad(f"{missing.args[0]}: is missing")
    except (UnicodeDecodeError, AttributeError):
        return _bad("a header is not UTF-8 text")
    fits = envelope.id and envelope.source and envelope.type and _all_short(found)
    return (None if fits else _bad_lengths(envelope)) or (envelope, value)


def _all_short(found: Mapping[str, Any]) -> bool:
    """Say whether no header can be too long: the common case, decided without looking at each."""
    try:
        return max(map(len, found.values())) <= MAX_ATTRIBUTE_CHARACTERS
    except TypeError:  # a header without a value; it is none of ours, or it would have been refused
        return False


def _bad(detail: str) -> Invalid:
    return Invalid(DeadLetterReason.ENVELOPE_INVALID, detail)


def _bad_lengths(envelope: Envelope) -> Invalid | None:
    for name, required in zip(("id", "source", "type"), envelope[:3], strict=True):
        if not 0 < len(required) <= MAX_ATTRIBUTE_CHARACTERS:
            return _bad(f"{name}: must have 1 to {MAX_ATTRIBUTE_CHARACTERS} characters")
    for value in envelope[3:]:
        if value is not None and len(value) > 2 * MAX_ATTRIBUTE_CHARACTERS:
            return _bad(f"an attribute is longer than {2 * MAX_ATTRIBUTE_CHARACTERS} characters")
    return None


def _read_structured(value: bytes) -> tuple[Envelope, bytes] | Invalid:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return Invalid(DeadLetterReason.JSON_INVALID, "the structured event is not JSON")
    if not isinstance(document, dict) or document.get("specversion") != SPEC_VERSION:
        return _bad("specversion: must be 1.0")
    attributes: dict[str, str] = {}
    for name in Envelope._fields:
        attribute = document.get(name)
        if isinstance(attribute, str):
            if not _is_utf8(attribute):
                return _bad(f"{name}: must be UTF-8 text")
            attributes[name] = attribute
        elif attribute is not None or name in {"id", "source", "type"}:
            return _bad(f"{name}: must be text")
    envelope = Envelope(**attributes)
    try:
        if "data_base64" in document:
            data = base64.b64decode(document["data_base64"], validate=True)
        else:
            data = json.dumps(document.get("data"), ensure_ascii=False).encode()
    except (binascii.Error, TypeError, ValueError):
        return _bad("data: cannot be read")
    return _bad_lengths(envelope) or (envelope, data)


def _is_utf8(text: str) -> bool:
    """Say whether a text from JSON has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
