"""What the parts of a manifest share: they are lossless, so that a signature over them can be checked again."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from .fields import WireModel

Name = Annotated[str, Field(max_length=256)]
Number = int | float


class ManifestPart(WireModel):
    """Base of the parts of a manifest; keeps what it does not know and writes only what it was given."""

    model_config = ConfigDict(extra="allow")

    @model_serializer(mode="wrap")
    def _as_given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}
