"""``interaction.recorded.v1``: one answer shown to a user, and what the user did with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .fields import EventId, Moment, NoticeVersion, ServedName, Slug, TenantId, Text, UserId, WireModel


def _require_kind(schema: dict[str, Any]) -> None:
    """Say that ``kind`` must be there: it has a default in Python only."""
    schema["required"] = ["kind", *schema.get("required", ())]


class OutcomePart(WireModel):
    """Base of the outcomes."""

    model_config = ConfigDict(json_schema_extra=_require_kind)


class Accepted(OutcomePart):
    """The user took the completion as it was."""

    kind: Literal["accepted"] = "accepted"


class Edited(OutcomePart):
    """The user changed the completion before using it."""

    kind: Literal["edited"] = "edited"
    final_text: Text
    """What the user made of it."""


class Rejected(OutcomePart):
    """The user threw the completion away."""

    kind: Literal["rejected"] = "rejected"


class Rating(OutcomePart):
    """The user rated the completion; a thumb up is 5, a thumb down is 1."""

    kind: Literal["rating"] = "rating"
    rating: Annotated[int, Field(ge=1, le=5)]


class Correction(OutcomePart):
    """The user said afterwards what the completion should have been."""

    kind: Literal["correction"] = "correction"
    final_text: Text
    """What it should have been."""


Outcome = Annotated[Accepted | Edited | Rejected | Rating | Correction, Field(discriminator="kind")]


class InteractionV1(WireModel):
    """One answer shown to a user, and what the user did with it."""

    tenant_id: TenantId
    user_id: UserId
    interaction_id: EventId
    """The product's id of the interaction; a later outcome of the same interaction repeats it."""
    domain: Slug = "default"
    """Which of the tenant's adapter lines learns from it."""
    prompt: Annotated[str, Field(min_length=1, max_length=16_384)]
    """What the model was asked."""
    completion: Text
    """What the user was shown."""
    outcome: Outcome
    served_name: ServedName | None = None
    """The adapter version that answered; absent means the base model."""
    notice_version: NoticeVersion
    occurred_at: Moment
    """When the outcome happened; the privacy period is taken from it."""
