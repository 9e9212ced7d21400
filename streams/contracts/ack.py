"""``serving.…v1``: what a server did with an adapter version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .fields import Digest, LineRef, Moment, ServedName, Slug, WireModel
from .topics import SERVING_FAILED, SERVING_LOADED, SERVING_UNLOADED, SERVING_VERIFIED


class AckStatus(StrEnum):
    """The steps of a version in one server."""

    LOADED = "loaded"
    VERIFIED = "verified"  # the model itself was asked, and changes as the manifest says
    FAILED = "failed"
    UNLOADED = "unloaded"

    @property
    def event_type(self) -> str:
        """The ``ce_type`` under which this status is reported."""
        return _EVENT_TYPES[self]


_EVENT_TYPES = {
    AckStatus.LOADED: SERVING_LOADED,
    AckStatus.VERIFIED: SERVING_VERIFIED,
    AckStatus.FAILED: SERVING_FAILED,
    AckStatus.UNLOADED: SERVING_UNLOADED,
}


class ServingAckV1(WireModel):
    """What one server did with one adapter version."""

    line_ref: LineRef
    version_id: Digest
    served_name: ServedName
    status: AckStatus
    server_id: Annotated[str, Field(min_length=1, max_length=128)]
    """Which server; stable over restarts."""
    engine: Slug
    """What kind of server, for example ``vllm`` or ``peft``."""
    epoch: Annotated[int, Field(ge=0, le=2**62)]
    """Epoch of the desired state the server acted on."""
    reason: Annotated[str, Field(max_length=512)] | None = None
    """Of a failure: a stable code, no payload."""
    probe_effect: float | None = None
    """Of a verification: mean absolute change of the watched tokens' log-probability that the server measured."""
    occurred_at: Moment
