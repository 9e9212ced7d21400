"""Properties of the contracts: nothing from the wire crashes a reader, and what is written is read back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from streams.contracts import schemas
from streams.contracts.codec import Decoded, decode_adapter_state, decode_consent, decode_interaction, encode
from streams.contracts.compatibility import breaks
from streams.contracts.dead_letter import DeadLetter, DeadLetterReason, original_headers
from streams.contracts.envelope import Invalid, new_envelope, sender_digest
from streams.contracts.interaction import Accepted, Correction, Edited, InteractionV1, Rating, Rejected
from streams.contracts.manifest import AdapterVersionV1, ManifestV1, canonical_json, manifest_digest

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
MOMENTS = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001  # bounds are given without the zone that is drawn
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))]),
)
OUTCOMES = st.one_of(
    st.builds(Accepted),
    st.builds(Rejected),
    st.builds(Edited, final_text=TEXT),
    st.builds(Correction, final_text=TEXT),
    st.builds(Rating, rating=st.integers(1, 5)),
)
INTERACTIONS = st.builds(
    InteractionV1,
    tenant_id=st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    user_id=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40),
    interaction_id=st.from_regex(r"[!-~]{1,40}", fullmatch=True),
    domain=st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    prompt=TEXT.filter(bool),
    completion=TEXT,
    outcome=OUTCOMES,
    notice_version=st.just("1"),
    occurred_at=MOMENTS,
)
VALIDATOR = Draft202012Validator(schemas.event_schema("interaction.recorded.v1"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(INTERACTIONS, TEXT.filter(bool), TEXT.filter(bool), MOMENTS)
def test_an_event_is_read_back_as_it_was_written(event, event_id, source, time):
    envelope = new_envelope(event_id=event_id, source=source, event_type="interaction.recorded.v1", time=time)
    record = encode(event, envelope)
    assert decode_interaction(record.headers, record.value, key=record.key) == Decoded(event, envelope)
    VALIDATOR.validate(json.loads(record.value))


HEADER_VALUES = st.binary(max_size=20) | st.sampled_from(
    [b"1.0", b"interaction.recorded.v1", b"application/json", b"application/cloudevents+json", b"id"]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type", "traceparent", "x"]
        ),
        HEADER_VALUES,
    ),
    max_size=8,
)


@given(
    HEADERS,
    st.none() | st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()),
    st.binary(max_size=9),
)
def test_no_record_crashes_a_reader(headers, value, key):
    for decode in (decode_interaction, decode_consent, decode_adapter_state):
        result = decode(headers, value, key=key)
        assert isinstance(result, Invalid)
        assert result.reason in DeadLetterReason


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(INTERACTIONS, st.data())
def test_a_damaged_event_is_read_as_the_schema_says(event, data):
    envelope = new_envelope(
        event_id="e", source="/s", event_type="interaction.recorded.v1", time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    document = json.loads(encode(event, envelope).value)
    name = data.draw(st.sampled_from(sorted(document)))
    if data.draw(st.booleans()):
        del document[name]
    else:
        document[name] = data.draw(JSON)
    result = decode_interaction(envelope.headers(), json.dumps(document).encode())
    if isinstance(result, Decoded):  # what the code accepts, the published schema accepts
        assert VALIDATOR.is_valid(document)
    else:
        assert result.reason is DeadLetterReason.SCHEMA_VIOLATION


@given(TEXT, TEXT, TEXT, TEXT)
def test_different_identities_have_different_digests(source, event_id, other_source, other_id):
    same = (source, event_id) == (other_source, other_id)
    assert (sender_digest(source, event_id) == sender_digest(other_source, other_id)) is same


@given(
    st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=5),
    st.sampled_from(list(DeadLetterReason)),
    st.integers(0, 2**40),
    st.integers(1, 9),
    MOMENTS,
)
def test_a_dead_letter_keeps_the_original_headers(headers, reason, offset, attempts, at):
    letter = DeadLetter(
        reason=reason,
        detail="prompt: missing",
        topic="t",
        partition=3,
        offset=offset,
        timestamp_milliseconds=-1,
        group="g",
        attempts=attempts,
        refused_at=at,
    )
    written = letter.headers(headers)
    assert original_headers(written) == headers
    assert DeadLetter.from_headers(written) == letter
    again = letter.headers(written)  # refused a second time after a replay
    assert again == written


EXAMPLE = Path(schemas.__file__).parent / "examples" / "adapters" / "v1" / "state.json"
MANIFEST = json.dumps(json.loads(EXAMPLE.read_text("utf-8"))["value"]["adapter"]["manifest"])
NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS, st.dictionaries(TEXT, JSON, max_size=3), st.booleans())
def test_a_manifest_is_written_again_exactly(alpha, epsilon, unknown, with_probes):
    document = json.loads(MANIFEST)
    document["lora"]["alpha"] = alpha
    document["privacy"]["cumulative_epsilon"] = epsilon
    document["privacy"] = {**unknown, **document["privacy"]}
    if not with_probes:
        del document["evaluation"]["probes"]
    manifest = canonical_json(document)
    version = AdapterVersionV1.from_manifest_bytes(
        manifest, uri="file:///x", key_id="k", signature="A" * 86 + "=="
    )
    over_the_wire = AdapterVersionV1.model_validate_json(version.model_dump_json())
    assert over_the_wire.manifest.canonical_bytes() == manifest
    assert over_the_wire.version_id == manifest_digest(manifest)
    assert isinstance(over_the_wire.manifest, ManifestV1)


KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer", "number", "null", "object", ["string", "null"]]),
        "minimum": st.integers(-1, 2),
        "maximum": st.integers(0, 3),
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(0, 2),
        "enum": st.lists(st.sampled_from(["a", "bb", 0, 1, None]), min_size=1, unique_by=repr),
        "required": st.lists(st.sampled_from(["p", "q"]), unique=True),
        "additionalProperties": st.booleans(),
    },
)
SCHEMAS = st.recursive(
    KEYWORDS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.builds(lambda base, p: {**base, "properties": {"p": p}}, KEYWORDS, inner),
    ),
    max_leaves=4,
)
INSTANCES = ["", "a", "bb", "ccc", 0, 1, 2, -1, 0.5, None, {}, {"p": 1}, {"p": "a", "q": 2}, {"q": None}]


def closed(schema):
    """Return the schema of what is written: no fields but those it names."""
    if "anyOf" in schema:
        return {"anyOf": [closed(branch) for branch in schema["anyOf"]]}
    properties = {name: closed(part) for name, part in schema.get("properties", {}).items()}
    return {**schema, "properties": properties, "additionalProperties": False}


@settings(max_examples=400)
@given(SCHEMAS, SCHEMAS)
def test_schemas_that_pass_the_check_read_everything_old(old, new):
    if breaks(old, new):
        return
    reader, writer = Draft202012Validator(new), Draft202012Validator(closed(old))
    for instance in INSTANCES:
        assert reader.is_valid(instance) or not writer.is_valid(instance)
