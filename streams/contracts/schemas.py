"""JSON Schemas of the event types, generated from the models, and the files that hold them.

``schemas/<event type>.json`` is what the code says now; ``schemas/released/<version>/`` what releases said.
The files are written by ``python -m streams.contracts.write_documents`` and a test compares them with the
code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .codec import EVENT_MODELS
from .envelope import schema_uri

if TYPE_CHECKING:
    from pydantic import BaseModel

DIRECTORY = Path(__file__).parent / "schemas"
RELEASED = DIRECTORY / "released"
_PUBLISHED_NAMES = {"ConsentPurpose": "Purpose"}  # of a class → of its part in the documents; never changed
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event_schema(event_type: str) -> dict[str, Any]:
    """Return the JSON Schema of the data of one event type, as a reader of this version accepts them."""
    return {"$schema": DIALECT, "$id": schema_uri(event_type), **data_schema(EVENT_MODELS[event_type])}


def data_schema(model: type[BaseModel], *, ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
    """Return the JSON Schema of a model, its parts under the names that were published."""
    text = json.dumps(model.model_json_schema(ref_template=ref_template))
    for name, published in _PUBLISHED_NAMES.items():
        text = re.sub(rf'(["/]){name}"', rf'\1{published}"', text)
    schema: dict[str, Any] = json.loads(text)
    return schema


def event_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every event type."""
    return {event_type: event_schema(event_type) for event_type in sorted(EVENT_MODELS)}


def released_schemas() -> dict[str, dict[str, dict[str, Any]]]:
    """Return, per released version, the schemas it was released with."""
    return {
        version.name: {
            path.stem: json.loads(path.read_text("utf-8")) for path in sorted(version.glob("*.json"))
        }
        for version in sorted(RELEASED.iterdir())
        if version.is_dir()
    }


def document_text(document: object) -> str:
    """Return the text under which a document is committed."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
