"""The committed documents are what the code says: schemas, AsyncAPI, examples, the topic table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from streams.client.signatures import TrustedKeys
from streams.client.testing import FakeSigner
from streams.contracts import asyncapi, schemas
from streams.contracts.codec import (
    EVENT_MODELS,
    Decoded,
    decode_ack,
    decode_adapter_event,
    decode_adapter_state,
    decode_anchor,
    decode_consent,
    decode_erased,
    decode_erasure,
    decode_interaction,
)
from streams.contracts.compatibility import breaks
from streams.contracts.dead_letter import DeadLetter, DeadLetterReason, original_headers
from streams.contracts.topics import (
    ADAPTER_EVENTS,
    ADAPTERS,
    ANCHOR,
    CONSENT,
    DEAD_LETTERS,
    ERASED,
    ERASURES,
    INTERACTIONS,
    SERVING_ACKS,
    TOPICS,
)

CONTRACTS = Path(schemas.__file__).parent
EXAMPLES = sorted((CONTRACTS / "examples").glob("*/v1/*.json"))
DECODERS = {
    INTERACTIONS.name: decode_interaction,
    CONSENT.name: decode_consent,
    ERASURES.name: decode_erasure,
    ADAPTER_EVENTS.name: decode_adapter_event,
    ADAPTERS.name: decode_adapter_state,
    SERVING_ACKS.name: decode_ack,
    DEAD_LETTERS.name: decode_interaction,
    ANCHOR.name: decode_anchor,
    ERASED.name: decode_erased,
}
REGENERATE = "run python -m streams.contracts.write_documents"


def record_of(path):
    document = json.loads(path.read_text("utf-8"))
    headers = [(name, text.encode()) for name, text in document["headers"].items()]
    value = None if document["value"] is None else json.dumps(document["value"]).encode()
    return document, headers, value


@pytest.mark.parametrize("event_type", sorted(EVENT_MODELS))
def test_committed_schemas_are_those_of_the_code(event_type):
    text = schemas.document_text(schemas.event_schema(event_type))
    assert (schemas.DIRECTORY / f"{event_type}.json").read_text("utf-8") == text, REGENERATE
    Draft202012Validator.check_schema(json.loads(text))


def test_no_schema_file_is_left_over():
    assert {path.stem for path in schemas.DIRECTORY.glob("*.json")} == set(EVENT_MODELS)


def test_the_asyncapi_document_is_that_of_the_code():
    assert asyncapi.PATH.read_text("utf-8") == schemas.document_text(asyncapi.asyncapi_document()), REGENERATE


def test_the_asyncapi_document_is_complete_and_its_references_resolve():
    document = asyncapi.asyncapi_document()
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    assert set(document["components"]["messages"]) == {*EVENT_MODELS, "dead-letter"}
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert references
    for reference in references:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    for schema in document["components"]["schemas"].values():
        validator_for({"$schema": "http://json-schema.org/draft-07/schema#"}).check_schema(schema)


def test_code_reads_everything_that_any_release_accepts():
    released = schemas.released_schemas()
    assert released
    now = schemas.event_schemas()
    for version, by_type in released.items():
        for event_type, schema in by_type.items():
            assert event_type in now, f"{event_type} of {version} is gone"
            assert breaks(schema, now[event_type]) == [], f"{event_type} against {version}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_examples_are_valid_by_schema_and_by_code(path):
    document, headers, value = record_of(path)
    key = document["key"].encode()
    if value is None:
        assert document["topic"] == ADAPTERS.name
        return
    schema = json.loads((schemas.DIRECTORY / f"{document['headers']['ce_type']}.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(document["value"])
    decoded = DECODERS[document["topic"]](headers, value, key=key)
    assert isinstance(decoded, Decoded), decoded
    topic = next(topic for topic in TOPICS if topic.name == document["topic"])
    if topic is DEAD_LETTERS:
        assert DeadLetter.from_headers(headers).headers(original_headers(headers)) == headers
    else:
        assert decoded.envelope.type in topic.event_types
        assert decoded.envelope.headers() == headers
    version = getattr(decoded.data, "adapter", None)
    if version is not None:
        TrustedKeys([FakeSigner().public_key]).check(version)


def test_every_event_type_and_topic_has_an_example():
    documents = [json.loads(path.read_text("utf-8")) for path in EXAMPLES]
    assert {document["headers"]["ce_type"] for document in documents} == set(EVENT_MODELS)
    assert {document["topic"] for document in documents} == {topic.name for topic in TOPICS}


def test_the_readme_has_the_topic_table_of_the_code():
    readme = (CONTRACTS / "README.md").read_text("utf-8")
    for topic in TOPICS:
        kept = "for ever" if topic.retention_seconds is None else f"{topic.retention_seconds // 86_400} d"
        cells = [
            f"`{topic.name}`",
            topic.key.value,
            f"{topic.cleanup.value}, {kept}",
            topic.partitions,
            topic.what,
        ]
        assert f"| {' | '.join(map(str, cells))} |" in readme
    for reason in DeadLetterReason:
        assert f"| `{reason.value}` |" in readme
