"""What a record becomes: an event, or the reason why it cannot be one."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from streams.contracts.ack import AckStatus
from streams.contracts.codec import (
    Decoded,
    decode_ack,
    decode_adapter_state,
    decode_consent,
    decode_erasure,
    decode_interaction,
    encode,
    record_key,
)
from streams.contracts.consent import ConsentPurpose, ConsentV1
from streams.contracts.dead_letter import DeadLetterReason as Reason
from streams.contracts.envelope import Invalid, new_envelope, sender_digest
from streams.contracts.erasure import ErasureCertificateV1, ErasureCompletedV1, ErasureRequestedV1
from streams.contracts.errors import InvalidEventError
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import CONSENT_GRANTED, ERASURE_COMPLETED, INTERACTION_RECORDED
from tests.fakes.stream_records import ack

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
DATA = {
    "tenant_id": "acme",
    "user_id": "u-1",
    "interaction_id": "i-1",
    "prompt": "Where is it?",
    "completion": "There.",
    "outcome": {"kind": "accepted"},
    "notice_version": "1",
    "occurred_at": "2026-03-02T09:30:00Z",
}
HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"e-1",
    "ce_source": b"/acme",
    "ce_type": b"interaction.recorded.v1",
}


def value(**changes):
    return json.dumps({**DATA, **changes}).encode()


def without(name):
    return json.dumps({key: part for key, part in DATA.items() if key != name}).encode()


def test_headers_may_be_a_mapping_or_pairs():
    pairs = list(HEADERS.items())
    assert decode_interaction(HEADERS, value()) == decode_interaction(pairs, value())
    decoded = decode_interaction(pairs, value(), key=b"acme/u-1")
    assert isinstance(decoded, Decoded)
    assert decoded.data.occurred_at == NOW
    assert decoded.data.domain == "default"
    assert decoded.envelope.sender_digest() == sender_digest("/acme", "e-1")


@pytest.mark.parametrize(
    ("headers", "data", "reason", "detail"),
    [
        (HEADERS, None, Reason.EMPTY, "no value"),
        (HEADERS, b" " * 65_537, Reason.OVERSIZED, "65537"),
        (None, value(), Reason.ENVELOPE_INVALID, "ce_specversion"),
        ({**HEADERS, "ce_specversion": b"0.3"}, value(), Reason.ENVELOPE_INVALID, "1.0"),
        ({key: HEADERS[key] for key in HEADERS if key != "ce_id"}, value(), Reason.ENVELOPE_INVALID, "ce_id"),
        ({**HEADERS, "ce_id": b""}, value(), Reason.ENVELOPE_INVALID, "id"),
        ({**HEADERS, "ce_id": b"\xff"}, value(), Reason.ENVELOPE_INVALID, "UTF-8"),
        ({**HEADERS, "ce_source": b"x" * 300}, value(), Reason.ENVELOPE_INVALID, "source"),
        ({**HEADERS, "traceparent": b"x" * 600}, value(), Reason.ENVELOPE_INVALID, "longer"),
        ({**HEADERS, "content-type": b"application/xml"}, value(), Reason.ENVELOPE_INVALID, "content-type"),
        ({**HEADERS, "ce_type": b"consent.granted.v1"}, value(), Reason.TYPE_UNKNOWN, "ce_type"),
        ({**HEADERS, "ce_type": b"interaction.recorded.v2"}, value(), Reason.TYPE_UNKNOWN, "ce_type"),
        (HEADERS, b"{", Reason.JSON_INVALID, "not JSON"),
        (HEADERS, b"\xff\xfe", Reason.JSON_INVALID, "not JSON"),
        (HEADERS, b"[]", Reason.SCHEMA_VIOLATION, "data"),
        (HEADERS, without("prompt"), Reason.SCHEMA_VIOLATION, "prompt: missing"),
        (HEADERS, value(prompt=""), Reason.SCHEMA_VIOLATION, "prompt"),
        (HEADERS, value(prompt="x" * 16_385), Reason.SCHEMA_VIOLATION, "prompt"),
        (HEADERS, value(tenant_id="Acme"), Reason.SCHEMA_VIOLATION, "tenant_id"),
        (HEADERS, value(user_id="a\nb"), Reason.SCHEMA_VIOLATION, "user_id"),
        (HEADERS, value(user_id=7), Reason.SCHEMA_VIOLATION, "user_id"),
        (HEADERS, value(occurred_at="2026-03-02T09:30:00"), Reason.SCHEMA_VIOLATION, "occurred_at"),
        (HEADERS, value(outcome={"kind": "edited"}), Reason.SCHEMA_VIOLATION, "outcome.edited.final_text"),
        (HEADERS, value(outcome={"kind": "x"}), Reason.SCHEMA_VIOLATION, "outcome"),
        (HEADERS, value(outcome={"kind": "rating", "rating": 6}), Reason.SCHEMA_VIOLATION, "rating"),
        (HEADERS, value(outcome={"kind": "rating", "rating": "5"}), Reason.SCHEMA_VIOLATION, "rating"),
    ],
)
def test_what_cannot_be_accepted_gets_a_reason(headers, data, reason, detail):
    refused = decode_interaction(headers, data)
    assert isinstance(refused, Invalid)
    assert refused.reason is reason
    assert detail in refused.detail


@pytest.mark.parametrize("key", [b"acme/u-2", b"other/u-1", b"acme", b"", b"\xff"])
def test_a_key_that_the_data_do_not_call_for_is_refused(key):
    assert decode_interaction(HEADERS, value(), key=key).reason is Reason.KEY_MISMATCH


def test_a_refusal_never_repeats_what_was_sent():
    secret = "thewords"
    for data in (
        value(user_id=f"{secret}\n"),
        value(outcome={"kind": secret}),
        value(tenant_id=secret.upper()),
        value(**{secret: secret}, prompt=3),
        secret.encode(),
    ):
        assert secret not in decode_interaction(HEADERS, data).detail.lower()
    with pytest.raises(ValidationError) as refused:
        InteractionV1.model_validate({**DATA, "prompt": [secret]})
    assert secret not in str(refused.value)


def test_unknown_fields_are_ignored():
    assert isinstance(decode_interaction(HEADERS, value(added_later=1)), Decoded)


def structured(**changes):
    event = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/acme",
        "type": "interaction.recorded.v1",
        "traceparent": "t",
        "data": DATA,
    }
    return json.dumps({**event, **changes}).encode()


def test_structured_mode_reads_the_same_event():
    headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    binary = decode_interaction({**HEADERS, "traceparent": b"t"}, value())
    assert decode_interaction(headers, structured()) == binary
    encoded = base64.b64encode(value()).decode()
    assert decode_interaction(headers, structured(data=None, data_base64=encoded)) == binary
    for bad in (
        b"{",
        b"[]",
        structured(specversion="2"),
        structured(id=None),
        structured(id=3),
        structured(data_base64=5),
    ):
        assert decode_interaction(headers, bad).reason in {Reason.ENVELOPE_INVALID, Reason.JSON_INVALID}
    assert decode_interaction(headers, b"[" * 60_000).reason is Reason.JSON_INVALID


def test_identities_do_not_run_together():
    assert sender_digest("a", "bc") != sender_digest("ab", "c")
    assert len(sender_digest("a", "b")) == 32


def envelope(event_type):
    return new_envelope(event_id="e", source="/s", event_type=event_type, time=NOW)


def test_an_event_is_sent_under_its_own_type_only():
    event = InteractionV1.model_validate_json(value())
    with pytest.raises(InvalidEventError, match=r"consent\.granted\.v1"):
        encode(event, envelope(CONSENT_GRANTED))
    with pytest.raises(InvalidEventError, match="unheard"):
        encode(event, envelope("unheard.of.v1"))
    with pytest.raises(InvalidEventError, match="at most 100"):
        encode(event, envelope(INTERACTION_RECORDED), max_bytes=100)


def test_keys_of_consent_hold_the_purpose_and_of_erasures_the_user():
    consent = ConsentV1(
        tenant_id="acme", user_id="a/b", purpose=ConsentPurpose.SHARING, notice_version="1", occurred_at=NOW
    )
    record = encode(consent, envelope(CONSENT_GRANTED))
    assert record.key == b"acme/a/b/sharing"
    assert isinstance(decode_consent(record.headers, record.value, key=record.key), Decoded)
    assert decode_consent(record.headers, record.value, key=b"acme/a/b").reason is Reason.KEY_MISMATCH
    request = ErasureRequestedV1(tenant_id="acme", user_id="a/b", request_id="r", occurred_at=NOW)
    assert record_key(request) == b"acme/a/b"


def test_an_erasure_is_answered_under_the_key_of_its_request():
    answer = ErasureCompletedV1(
        tenant_id="acme",
        request_id="r",
        completed_at=NOW,
        certificate=ErasureCertificateV1(
            issued_at=NOW, signals_erased=1, keys_destroyed=1, statement="Done."
        ),
    )
    with pytest.raises(InvalidEventError, match="must be given"):
        encode(answer, envelope(ERASURE_COMPLETED))
    record = encode(answer, envelope(ERASURE_COMPLETED), key=b"acme/u-1")
    assert b"u-1" not in record.value
    assert decode_erasure(record.headers, record.value, key=record.key).data == answer
    assert decode_erasure(record.headers, record.value, key=b"other/u-1").reason is Reason.KEY_MISMATCH


def test_adapter_states_are_refused_under_another_line():
    assert decode_adapter_state(HEADERS, value(), key=b"x").reason is Reason.TYPE_UNKNOWN
    assert Accepted().kind == "accepted"


def test_an_acknowledgement_under_the_type_of_another_status_is_refused():
    record = ack(status=AckStatus.FAILED)
    headers = [
        (name, AckStatus.LOADED.event_type.encode() if name == "ce_type" else value)
        for name, value in record.headers
    ]
    assert isinstance(decode_ack(record.headers, record.value, key=record.key), Decoded)
    refused = decode_ack(headers, record.value, key=record.key)
    assert refused == Invalid(Reason.SCHEMA_VIOLATION, "status: is not the one that ce_type names")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_moment_that_has_no_place_in_utc_is_refused(moment):
    refused = decode_interaction(HEADERS, value(occurred_at=moment))
    assert refused.reason is Reason.SCHEMA_VIOLATION
    assert refused.detail.startswith("occurred_at")


@pytest.mark.parametrize("name", ["id", "source", "type", "traceparent"])
def test_an_attribute_that_is_no_utf8_text_is_refused(name):
    document = {"specversion": "1.0", "id": "e", "source": "s", "type": "interaction.recorded.v1"}
    document[name] = "\udc00"
    headers = {"content-type": b"application/cloudevents+json"}
    refused = decode_interaction(headers, json.dumps({**document, "data": DATA}).encode())
    assert refused == Invalid(Reason.ENVELOPE_INVALID, f"{name}: must be UTF-8 text")
