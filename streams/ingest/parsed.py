"""A decoded event as the handlers pass it on."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar, overload

from streams.contracts.codec import Decoded
from streams.contracts.envelope import Invalid

Data = TypeVar("Data")


class Parsed(NamedTuple, Generic[Data]):
    """A decoded event."""

    data: Data
    event_type: str
    sender: bytes  # what the sender calls it, see ``streams.contracts.envelope.sender_digest``
    traceparent: str | None


@overload
def parsed(decoded: Decoded[Any]) -> Parsed[Any]: ...
@overload
def parsed(decoded: Decoded[Any] | Invalid) -> Parsed[Any] | Invalid: ...
def parsed(decoded: Decoded[Any] | Invalid) -> Parsed[Any] | Invalid:
    """Return what a handler passes on of a decoded event; a refusal stays one."""
    if isinstance(decoded, Invalid):
        return decoded
    envelope = decoded.envelope
    return Parsed(decoded.data, envelope.type, envelope.sender_digest(), envelope.traceparent)
