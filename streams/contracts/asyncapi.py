"""The AsyncAPI 3 document of the contract, generated from the topics and the event types.

It describes the worker: what it receives and what it sends. Its schemas are those of ``schemas``, with
shared parts under ``components`` so that tools which know JSON Schema draft 7 only can read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .codec import EVENT_MODELS
from .dead_letter import PREFIX, DeadLetterReason
from .envelope import JSON_CONTENT_TYPE, MAX_ATTRIBUTE_CHARACTERS, schema_uri
from .schemas import data_schema
from .signed_record import KEY_ID_HEADER, SIGNATURE_HEADER
from .topics import ADAPTER_STATE, ANCHOR, DEAD_LETTERS, ERASED, TOPICS, Cleanup, Key, Role, Topic

PATH = Path(__file__).parent / "asyncapi.json"
CONTRACT_VERSION = "1.0.0"
KAFKA_BINDING_VERSION = "0.5.0"

SIGNED_TYPES = {ADAPTER_STATE, *ANCHOR.event_types, *ERASED.event_types}

_KEYS = {
    Key.TENANT_USER: "Tenant id, a slash, the user id.",
    Key.TENANT_USER_PURPOSE: "Tenant id, a slash, the user id, a slash, the purpose.",
    Key.ADAPTER_LINE: "Pseudonym of the adapter line.",
    Key.AS_SOURCE: "Key of the record that was refused.",
    Key.ANCHORED: "Group, a slash, then offsets, or tenant and the owner of a chain or line with a slash between.",
    Key.PSEUDONYM: "Group, a slash, the tenant id, a slash, the pseudonym of a user.",
}


def asyncapi_document() -> dict[str, Any]:
    """Return the whole document."""
    schemas: dict[str, Any] = {}
    messages = {event_type: _message(event_type, schemas) for event_type in EVENT_MODELS}
    messages["dead-letter"] = _dead_letter()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "discreet",
            "version": CONTRACT_VERSION,
            "description": (
                "Events of an event-driven personalization worker with user-level differential privacy. "
                "CloudEvents 1.0 in binary mode; an event is identified by its topic, tenant and user, "
                "ce_source and ce_id; it is delivered at least once and takes effect once."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON_CONTENT_TYPE,
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {name: operation for topic in TOPICS for name, operation in _operations(topic)},
        "components": {"messages": messages, "schemas": dict(sorted(schemas.items()))},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    configs = topic.configs()
    configuration: dict[str, Any] = {
        "cleanup.policy": [topic.cleanup.value],
        "max.message.bytes": int(configs["max.message.bytes"]),
    }
    retention = "delete.retention.ms" if topic.cleanup is Cleanup.COMPACT else "retention.ms"
    configuration[retention] = int(configs[retention])
    return {
        "address": topic.name,
        "description": f"{topic.what} Record key: {_KEYS[topic.key]}",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "replicas": 3,
                "topicConfiguration": configuration,
                "bindingVersion": KAFKA_BINDING_VERSION,
            }
        },
    }


def _operations(topic: Topic) -> list[tuple[str, dict[str, Any]]]:
    channel = {"$ref": f"#/channels/{topic.name}"}
    operations: list[tuple[str, dict[str, Any]]] = []
    if Role.WORKER in topic.readers:
        operations.append((f"receive {topic.name}", {"action": "receive", "channel": channel}))
    if Role.WORKER in topic.writers:
        operations.append((f"send {topic.name}", {"action": "send", "channel": channel}))
    return operations


def _message_names(topic: Topic) -> tuple[str, ...]:
    return ("dead-letter",) if topic is DEAD_LETTERS else topic.event_types


def _message(event_type: str, schemas: dict[str, Any]) -> dict[str, Any]:
    model = EVENT_MODELS[event_type]
    schema = data_schema(model, ref_template="#/components/schemas/{model}")
    for name, part in schema.pop("$defs", {}).items():
        schemas[name] = _for_draft_7(part)
    schemas[model.__name__] = _for_draft_7(schema)
    topic = next(topic for topic in TOPICS if event_type in topic.event_types)
    return {
        "name": event_type,
        "title": event_type,
        "contentType": JSON_CONTENT_TYPE,
        "headers": _headers(event_type),
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _KEYS[topic.key]},
                "bindingVersion": KAFKA_BINDING_VERSION,
            }
        },
    }


def _headers(event_type: str) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_ATTRIBUTE_CHARACTERS}
    signed = {KEY_ID_HEADER: text, SIGNATURE_HEADER: text} if event_type in SIGNED_TYPES else {}
    return {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
        "properties": {
            **signed,
            "ce_specversion": {"const": "1.0"},
            "ce_id": text,
            "ce_source": text,
            "ce_type": {"const": event_type},
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_subject": {"type": "string"},
            "ce_dataschema": {"const": schema_uri(event_type)},
            "ce_sequence": {"type": "string", "pattern": "^[0-9]+$"},
            "content-type": {"const": JSON_CONTENT_TYPE},
            "traceparent": {"type": "string"},
            "tracestate": {"type": "string"},
        },
    }


def _dead_letter() -> dict[str, Any]:
    text = {"type": "string"}
    number = {"type": "string", "pattern": "^-?[0-9]+$"}
    ours = {
        "reason": {"type": "string", "enum": [reason.value for reason in DeadLetterReason]},
        "detail": text,
        "topic": text,
        "partition": number,
        "offset": number,
        "timestamp": number,
        "group": text,
        "attempts": number,
        "at": {"type": "string", "format": "date-time"},
    }
    return {
        "name": "dead-letter",
        "title": "A record that could not be accepted",
        "description": "Key, value and headers of the original record, plus the headers below.",
        "headers": {
            "type": "object",
            "required": [PREFIX + name for name in ours],
            "properties": {PREFIX + name: schema for name, schema in ours.items()},
        },
        "payload": {"description": "The value of the refused record, byte for byte."},
    }


def _for_draft_7(schema: Any) -> Any:
    """AsyncAPI's ``discriminator`` is the property's name alone."""
    if isinstance(schema, dict):
        return {
            name: part["propertyName"]
            if name == "discriminator" and isinstance(part, dict)
            else _for_draft_7(part)
            for name, part in schema.items()
        }
    return [_for_draft_7(part) for part in schema] if isinstance(schema, list) else schema
