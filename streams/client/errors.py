"""The error tree of the client.

    ClientError
    ├── EventRefusedError         the event breaks its schema or a limit; it was not sent
    ├── BufferFullError           too many events wait for the broker (retryable)
    ├── DeliveryError             the broker did not confirm an event in time, or refused it (retryable)
    ├── BrokerUnreachableError    no broker answers (retryable)
    ├── ClosedError               the object was closed before
    ├── PositionError             a saved position cannot be read
    ├── PrototypeError            a line's prompts do not say what it is about
    └── AdapterRefusedError       an adapter version must not be loaded
        ├── DigestMismatchError   bytes differ from the manifest
        ├── SignatureInvalidError not signed by a trusted key
        ├── UnsafeArtifactError   a file that could run code, or a path outside the directory
        ├── RewoundLineError      what is announced lies below an epoch that was seen before
        ├── ArtifactFetchError    the artifact cannot be read from its address (retryable)
        └── AdapterUnprovenError  the model does not show that this adapter acts
            ├── AdapterInactiveError  it answers as the base alone
            └── WrongAdapterError     it answers as no server of this adapter would

Every class has a stable ``code`` and a ``retryable`` flag. A text never holds an id or text of a person.
"""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """Base of every error raised on purpose by the client."""

    code: ClassVar[str] = "client.error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1


class EventRefusedError(ClientError):
    """The event breaks its schema or a limit; it was not sent."""

    code = "client.event.refused"
    exit_status = 2


class BufferFullError(ClientError):
    """As many events as allowed wait for the broker; slow down and try again."""

    code = "client.buffer.full"
    retryable = True
    exit_status = 5


class DeliveryError(ClientError):
    """The broker did not confirm an event in time, or refused it; send it again with the same id."""

    code = "client.delivery.failed"
    retryable = True
    exit_status = 5


class BrokerUnreachableError(ClientError):
    """No broker answers at the configured address."""

    code = "client.broker.unreachable"
    retryable = True
    exit_status = 5


class ClosedError(ClientError):
    """The publisher or feed was closed before."""

    code = "client.closed"


class PositionError(ClientError):
    """A saved position cannot be read; delete it and start from the beginning."""

    code = "client.position.unreadable"


class AdapterRefusedError(ClientError):
    """An adapter version must not be loaded."""

    code = "client.adapter.refused"


class DigestMismatchError(AdapterRefusedError):
    """Bytes differ from what the manifest says."""

    code = "client.adapter.digest_mismatch"


class SignatureInvalidError(AdapterRefusedError):
    """The manifest is not signed by a trusted key."""

    code = "client.adapter.signature_invalid"


class RewoundLineError(AdapterRefusedError):
    """What is announced for a line lies below an epoch that this server has seen."""

    code = "client.adapter.rewound"


class UnsafeArtifactError(AdapterRefusedError):
    """The artifact holds a file that could run code, or a path outside its directory."""

    code = "client.adapter.unsafe"


class ArtifactFetchError(AdapterRefusedError):
    """The artifact cannot be read from its address now."""

    code = "client.adapter.unavailable"
    retryable = True
    exit_status = 5


class AdapterUnprovenError(AdapterRefusedError):
    """The model does not show that this adapter acts; do not send requests to it."""

    code = "client.adapter.unproven"


class AdapterInactiveError(AdapterUnprovenError):
    """The adapter is loaded and the model answers as if it were not."""

    code = "client.adapter.inactive"


class WrongAdapterError(AdapterUnprovenError):
    """The model's answers change in another way than the adapter's."""

    code = "client.adapter.wrong"


class PrototypeError(ClientError):
    """A line's prompts do not say what it is about."""

    code = "client.prototype"
