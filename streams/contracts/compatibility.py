"""Whether a reader with a new JSON Schema still accepts everything that the old one allowed (BACKWARD).

Covers the keywords that our schemas use. A keyword it does not know counts as a break as soon as the two
schemas differ in it, so a doubt is never waved through. A field that the old schema does not name counts as
never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from .errors import IncompatibleSchemaError

Schema = dict[str, Any]

ANNOTATIONS = {
    "$schema",
    "$id",
    "$defs",
    "$ref",
    "title",
    "description",
    "default",
    "examples",
    "discriminator",
    "deprecated",
}
LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
EXACT = ("pattern", "format", "multipleOf", "uniqueItems", "contentEncoding", "contentMediaType")
HANDLED = {
    *("type", "enum", "const", "properties", "required", "additionalProperties", "items", "anyOf", "oneOf"),
    *LOWER_BOUNDS,
    *UPPER_BOUNDS,
    *EXACT,
}
TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})


@dataclass(frozen=True)
class _Side:
    """One of the two documents, to look references up in."""

    root: Schema

    def resolve(self, schema: Schema | bool) -> Schema | bool:
        while isinstance(schema, dict) and "$ref" in schema:
            target: Any = self.root
            for part in str(schema["$ref"]).removeprefix("#/").split("/"):
                target = target[part]
            beside = {name: value for name, value in schema.items() if name not in ANNOTATIONS}
            schema = {**target, **beside} if isinstance(target, dict) else cast("bool", target)
        return schema


def breaks(old: Schema, new: Schema) -> list[str]:
    """Return why ``new`` would refuse something that ``old`` allows; empty when nothing is found.

    Args:
        old: schema that existing events were written with.
        new: schema that will read them.
    """
    return list(_compare(_Side(old), _Side(new), old, new, "data", frozenset()))


def require_backward(old: Schema, new: Schema) -> None:
    """Check that ``new`` reads all that ``old`` allows.

    Raises:
        IncompatibleSchemaError: naming every break; give the event type a new major version instead.
    """
    found = breaks(old, new)
    if found:
        raise IncompatibleSchemaError(f"{'; '.join(found)}; give the event type a new major version instead")


def _compare(
    old_side: _Side,
    new_side: _Side,
    old_schema: Schema | bool,
    new_schema: Schema | bool,
    where: str,
    seen: frozenset[tuple[int, int]],
) -> Iterator[str]:
    old, new = old_side.resolve(old_schema), new_side.resolve(new_schema)
    if old is False or new is True or new == {}:
        return
    if new is False:
        yield f"{where} is no longer allowed"
        return
    old = {} if old is True else old
    pair = (id(old_schema), id(new_schema))
    if pair in seen:  # a schema that contains itself
        return
    seen |= {pair}

    def inner(one: Schema | bool, other: Schema | bool, place: str) -> Iterator[str]:
        return _compare(old_side, new_side, one, other, place, seen)

    assert isinstance(old, dict)
    assert isinstance(new, dict)
    old_branches, new_branches = _branches(old), _branches(new)
    if old_branches is not None or new_branches is not None:
        yield from _compare_branches(old, new, where, inner)
        old = {name: value for name, value in old.items() if name not in {"anyOf", "oneOf"}}
        new = {name: value for name, value in new.items() if name not in {"anyOf", "oneOf"}}
        if old_branches is not None and not (set(new) - ANNOTATIONS):
            return
    yield from _compare_values(old, new, where)
    yield from _compare_objects(old, new, where, inner)
    if "items" in new:
        yield from inner(old.get("items", True), new["items"], f"{where}[]")
    for name in (set(old) | set(new)) - ANNOTATIONS - HANDLED:
        if old.get(name) != new.get(name):
            yield f"{where}: the change of {name} is not understood"


def _branches(schema: Schema) -> list[Schema] | None:
    branches = schema.get("anyOf", schema.get("oneOf"))
    return cast("list[Schema] | None", branches)


def _compare_branches(old: Schema, new: Schema, where: str, inner: Any) -> Iterator[str]:
    """Every alternative of the old schema must be covered by one of the new schema's."""
    old_branches = _branches(old) or [{name: value for name, value in old.items() if name not in ANNOTATIONS}]
    new_branches = _branches(new)
    if new_branches is None:
        rest = {name: value for name, value in new.items() if name not in ANNOTATIONS}
        for number, branch in enumerate(old_branches):
            yield from inner(branch, rest, f"{where} (alternative {number + 1})")
        return
    for number, branch in enumerate(old_branches):
        if all(list(inner(branch, candidate, where)) for candidate in new_branches):
            yield f"{where}: alternative {number + 1} is no longer allowed"


def _types(schema: Schema) -> frozenset[str]:
    declared = schema.get("type")
    if declared is None:
        return TYPES
    names = frozenset([declared] if isinstance(declared, str) else declared)
    return names | {"integer"} if "number" in names else names


def _values(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _compare_values(old: Schema, new: Schema, where: str) -> Iterator[str]:
    old_values, new_values = _values(old), _values(new)
    if new_values is not None:
        if old_values is None:
            yield f"{where}: allows listed values only now"
        elif gone := [value for value in old_values if value not in new_values]:
            yield f"{where}: {', '.join(map(str, gone))} is no longer allowed"
    if old_values is None and not _types(old) <= _types(new):
        yield f"{where}: type {', '.join(sorted(_types(old) - _types(new)))} is no longer allowed"
    if old_values is not None and "type" in new and old.get("type") != new["type"]:
        yield f"{where}: the type changed"
    for name in LOWER_BOUNDS:
        if name in new and (name not in old or new[name] > old[name]):
            yield f"{where}: {name} rose to {new[name]}"
    for name in UPPER_BOUNDS:
        if name in new and (name not in old or new[name] < old[name]):
            yield f"{where}: {name} fell to {new[name]}"
    for name in EXACT:
        if name in new and new[name] != old.get(name):
            yield f"{where}: {name} changed"


def _compare_objects(old: Schema, new: Schema, where: str, inner: Any) -> Iterator[str]:
    old_properties, new_properties = old.get("properties", {}), new.get("properties", {})
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{where}.{name} is required now"
    for name in sorted(set(old_properties) & set(new_properties)):
        yield from inner(old_properties[name], new_properties[name], f"{where}.{name}")
    rest = new.get("additionalProperties", True)
    if rest is not True:
        for name in sorted(set(old_properties) - set(new_properties)):
            yield from inner(old_properties[name], rest, f"{where}.{name}")
        yield from inner(old.get("additionalProperties", True), rest, f"{where}.*")
