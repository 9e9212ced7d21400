"""The BACKWARD check finds planted incompatible changes and lets compatible ones pass."""

from __future__ import annotations

import copy

import pytest

from streams.contracts.compatibility import breaks, require_backward
from streams.contracts.errors import IncompatibleSchemaError
from streams.contracts.schemas import event_schema

OLD = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 10, "minLength": 1, "pattern": "^a"},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "share": {"type": "number"},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        "part": {"$ref": "#/$defs/Part"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "one": {"oneOf": [{"$ref": "#/$defs/Part"}, {"type": "integer"}]},
    },
    "$defs": {
        "Part": {"type": "object", "properties": {"x": {"type": "integer"}, "next": {"$ref": "#/$defs/Part"}}}
    },
}


def changed(*path, to):
    schema = copy.deepcopy(OLD)
    target = schema
    for step in path[:-1]:
        target = target[step]
    if to is None:
        del target[path[-1]]
    else:
        target[path[-1]] = to
    return schema


PROPERTIES = "properties"
INCOMPATIBLE = {
    "a field is required": changed("required", to=["name", "count"]),
    "a new field is required": changed("required", to=["name", "new"]),
    "shorter text": changed(PROPERTIES, "name", "maxLength", to=5),
    "longer least text": changed(PROPERTIES, "name", "minLength", to=2),
    "another pattern": changed(PROPERTIES, "name", "pattern", to="^b"),
    "a pattern where none was": changed(PROPERTIES, "tags", "items", "pattern", to="^b"),
    "another type": changed(PROPERTIES, "name", "type", to="integer"),
    "a number becomes whole": changed(PROPERTIES, "share", "type", to="integer"),
    "a higher least value": changed(PROPERTIES, "count", "minimum", to=1),
    "a lower greatest value": changed(PROPERTIES, "count", "maximum", to=8),
    "a new bound": changed(PROPERTIES, "share", "exclusiveMinimum", to=0),
    "a listed value is gone": changed(PROPERTIES, "kind", to={"enum": ["a"]}),
    "listed values where all were": changed(PROPERTIES, "count", "enum", to=[1, 2]),
    "one constant": changed(PROPERTIES, "kind", to={"const": "a"}),
    "fewer items": changed(PROPERTIES, "tags", "maxItems", to=3),
    "other items": changed(PROPERTIES, "tags", "items", to={"type": "integer"}),
    "a change behind a reference": changed("$defs", "Part", PROPERTIES, "x", to={"type": "string"}),
    "null is gone": changed(PROPERTIES, "maybe", to={"type": "string"}),
    "an alternative is gone": changed(PROPERTIES, "one", to={"oneOf": [{"$ref": "#/$defs/Part"}]}),
    "unknown fields are refused and one was dropped": {
        **changed(PROPERTIES, "count", to=None),
        "additionalProperties": False,
    },
    "unknown fields are refused": changed("additionalProperties", to=False),
    "nothing is allowed": changed(PROPERTIES, "count", to=False),
    "a keyword that is not known": changed(PROPERTIES, "name", "not", to={"const": "abc"}),
    "a format": changed(PROPERTIES, "name", "format", to="uri"),
}
COMPATIBLE = {
    "the same": OLD,
    "a new optional field": changed(PROPERTIES, "new", to={"type": "string"}),
    "a dropped field": changed(PROPERTIES, "count", to=None),
    "no longer required": changed("required", to=[]),
    "longer text": changed(PROPERTIES, "name", "maxLength", to=20),
    "no bound": changed(PROPERTIES, "name", "maxLength", to=None),
    "no pattern": changed(PROPERTIES, "name", "pattern", to=None),
    "whole becomes any number": changed(PROPERTIES, "count", "type", to="number"),
    "one more listed value": changed(PROPERTIES, "kind", to={"enum": ["a", "b", "c"]}),
    "null is allowed": changed(
        PROPERTIES, "count", to={"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]}
    ),
    "one more alternative": changed(
        PROPERTIES, "one", to={"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/Part"}, {"type": "boolean"}]}
    ),
    "other words": changed(PROPERTIES, "name", "description", to="The name."),
    "anything": changed(PROPERTIES, "name", to=True),
}


@pytest.mark.parametrize("new", INCOMPATIBLE.values(), ids=INCOMPATIBLE.keys())
def test_incompatible_changes_are_found(new):
    assert breaks(OLD, new)
    with pytest.raises(IncompatibleSchemaError, match="new major version"):
        require_backward(OLD, new)


@pytest.mark.parametrize("new", COMPATIBLE.values(), ids=COMPATIBLE.keys())
def test_compatible_changes_pass(new):
    require_backward(OLD, new)


def test_a_planted_change_of_a_real_schema_is_found():
    schema = event_schema("interaction.recorded.v1")
    planted = copy.deepcopy(schema)
    planted["required"].append("domain")
    assert breaks(schema, planted) == ["data.domain is required now"]
    planted = copy.deepcopy(schema)
    del planted["$defs"]["Rating"]["properties"]["rating"]["maximum"]
    assert breaks(schema, planted) == []
    assert breaks(planted, schema) == ["data.outcome: alternative 4 is no longer allowed"]
