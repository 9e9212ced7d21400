"""Write the generated documents: ``python -m streams.contracts.write_documents [--release VERSION]``.

Without the option the JSON Schemas and the AsyncAPI document are brought up to date with the code. With it,
the schemas are also kept under ``schemas/released/VERSION`` as what that release accepts; later code must
read it.
"""

from __future__ import annotations

import argparse

from .asyncapi import PATH, asyncapi_document
from .compatibility import require_backward
from .schemas import DIRECTORY, RELEASED, document_text, event_schemas, released_schemas


def main(arguments: list[str] | None = None) -> None:
    """Write the files.

    Raises:
        IncompatibleSchemaError: a schema to be released could not read what an earlier release accepts.
    """
    parser = argparse.ArgumentParser(description="Write JSON Schemas and the AsyncAPI document.")
    parser.add_argument("--release", metavar="VERSION", help="also keep the schemas as those of a release")
    release = parser.parse_args(arguments).release
    schemas = event_schemas()
    for earlier in released_schemas().values():
        for event_type, schema in earlier.items():
            if release and event_type in schemas:
                require_backward(schema, schemas[event_type])
    directories = [DIRECTORY, *([RELEASED / release] if release else [])]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        for event_type, schema in schemas.items():
            (directory / f"{event_type}.json").write_text(document_text(schema), "utf-8")
    PATH.write_text(document_text(asyncapi_document()), "utf-8")


if __name__ == "__main__":
    main()
