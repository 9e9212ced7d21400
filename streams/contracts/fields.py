"""Constrained field types shared by the event types, and the base class that says how they validate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

TENANT_PATTERN = "^[a-z0-9][a-z0-9-]{0,62}$"
DIGEST_PATTERN = "^sha256:[0-9a-f]{64}$"
SERVED_NAME_PATTERN = "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"

MAX_TEXT_CHARACTERS = 16_384
"""Longest prompt, completion or final text, in characters."""

TenantId = Annotated[str, Field(pattern=TENANT_PATTERN, description="Text slug of the tenant.")]
Slug = Annotated[str, Field(pattern=TENANT_PATTERN)]
UserId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        pattern=r"^[^\u0000-\u001f\u007f]+$",
        description="The product's own id of the user; a pseudonym replaces it when the event is stored.",
    ),
]
EventId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\u0021-\u007e]+$")]
NoticeVersion = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[\u0021-\u007e]+$",
        description="Version of the privacy notice the user saw.",
    ),
]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS)]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN, description="Algorithm-prefixed SHA-256.")]
ServedName = Annotated[
    str,
    Field(
        pattern=SERVED_NAME_PATTERN,
        description="Name under which servers load the version; pseudonymous, never used again.",
    ),
]
LineRef = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9-]{0,127}$", description="Pseudonymous id of an adapter line."),
]
Moment = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC))
]
"""A point in time with its offset from UTC (RFC 3339 on the wire), from 1970 on and before the year 9999."""


class WireModel(BaseModel):
    """Base of every event type.

    Strict: a number in quotes is not a number. Unknown fields are ignored when read, so that a consumer keeps
    working when a producer knows a newer minor form; that is what the BACKWARD rule of ``compatibility``
    relies on.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def utc_text(moment: datetime) -> str:
    """Return ``moment`` as RFC 3339 text in UTC, the form of the ``ce_time`` header."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
