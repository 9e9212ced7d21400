"""What a version scored on the gate's public suites, as its manifest tells it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from .fields import Digest
from .manifest_part import ManifestPart, Name, Number

SuiteScores = Annotated[tuple[Number, ...], Field(max_length=4096)]


class SuiteAxisV1(ManifestPart):
    """One question about the version, item by item."""

    axis: Name
    templates: Annotated[tuple[Name, ...], Field(max_length=4096)]
    """Wording of each item: items of one wording are one cluster."""
    base: SuiteScores
    """Score of the base at each item."""
    adapted: SuiteScores
    """The same with the adapter."""
    measurable: Annotated[tuple[bool, ...], Field(max_length=4096)]
    """Whether the base can show a failure at the item at all."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if not len(self.templates) == len(self.base) == len(self.adapted) == len(self.measurable):
            raise ValueError("an axis has one score of each kind for each item")
        return self


class SuitesV1(ManifestPart):
    """What base and version scored on public suites, from public items and released weights alone."""

    digest: Digest
    """Of the items; only scores of equal digests are compared."""
    depth: Name
    axes: Annotated[tuple[SuiteAxisV1, ...], Field(max_length=32)]
