"""Publishing: events are validated, sent by an idempotent producer, and never lost silently.

An event that breaks its schema is refused before anything is sent. At most ``max_pending`` events wait for
the broker; then ``publish`` blocks, and after ``block_seconds`` raises. An event that the broker did not
confirm is reported by its ``Delivery``, by ``flush`` and by leaving the ``with`` block. Sending it again
under the same ``event_id`` is safe: the receiver counts (``source``, ``event_id``) once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import uuid
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import pydantic_core
from pydantic import ValidationError

from ..contracts.ack import AckStatus, ServingAckV1
from ..contracts.codec import Record, encode
from ..contracts.consent import ConsentPurpose, ConsentV1
from ..contracts.envelope import DEFAULT_MAX_EVENT_BYTES, new_envelope
from ..contracts.erasure import ErasureReason, ErasureRequestedV1
from ..contracts.errors import InvalidEventError
from ..contracts.fields import WireModel
from ..contracts.interaction import InteractionV1
from ..contracts.topics import CONSENT_GRANTED, CONSENT_WITHDRAWN, ERASURE_REQUESTED, INTERACTION_RECORDED
from .errors import BufferFullError, ClosedError, DeliveryError, EventRefusedError
from .kafka_broker import KafkaBroker
from .transport import Broker

Event = TypeVar("Event", bound=WireModel)


class Delivery:
    """The fate of one event."""

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
        self._future: Future[None] = Future()

    @property
    def done(self) -> bool:
        """Whether the fate is known."""
        return self._future.done()

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait until the broker has confirmed the event.

        Raises:
            DeliveryError: if it did not, or not within the time-out.
        """
        try:
            self._future.result(timeout_seconds)
        except TimeoutError as error:
            raise DeliveryError(f"the event was not confirmed within {timeout_seconds:g} s") from error

    def __await__(self) -> Generator[Any, None, None]:
        # Shielded: giving up waiting must not cancel the event.
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def settle(self, error: DeliveryError | None) -> None:
        """Record the fate; for publishers."""
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)


class EventPublisher:
    """Sends any event of the contract; the base of the publishers for one kind.

    Args:
        broker: ``host:port``, a ``KafkaBroker`` with security settings, or an in-memory broker.
        source: URI-reference that names the sending system; with topic, tenant, user and id the identity of an event.
        max_pending: most events that may wait for the broker.
        block_seconds: how long ``publish`` waits for room.
        max_event_bytes: largest value of one event; the receiver has such a limit too.
        on_error: called for each event that was not delivered, from the sending thread.
    """

    def __init__(
        self,
        broker: str | Broker,
        *,
        source: str,
        max_pending: int = 10_000,
        block_seconds: float = 30.0,
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        on_error: Callable[[Delivery, DeliveryError], None] | None = None,
    ) -> None:
        if not source:
            raise ValueError("source is empty; name the sending system, for example /acme/assistant")
        self._source = source
        self._max_event_bytes = max_event_bytes
        self._block_seconds = block_seconds
        self._on_error = on_error
        self._room = threading.BoundedSemaphore(max_pending)
        self._lock = threading.Lock()
        self._failed: list[DeliveryError] = []
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._closed = False
        self._sink = as_broker(broker).open_sink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def send(
        self,
        event: WireModel,
        event_type: str,
        *,
        event_id: str | None = None,
        key: bytes | None = None,
        time: datetime | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Delivery:
        """Validate and send one event of the given type.

        Raises:
            EventRefusedError: if the event breaks its schema or a limit.
            BufferFullError: if there was no room within ``block_seconds``.
            BrokerUnreachableError: if the broker does not know the topic or does not answer.
            ClosedError: if the publisher was closed.
        """
        envelope = new_envelope(
            event_id=event_id or self._new_event_id(),
            source=self._source,
            event_type=event_type,
            time=time or datetime.now(UTC),
            traceparent=traceparent,
            tracestate=tracestate,
        )
        try:
            record = encode(event, envelope, key=key, max_bytes=self._max_event_bytes)
            # What was made with model_construct or model_copy has not been validated yet.
            type(event).model_validate_json(record.value or b"")
        except InvalidEventError as error:
            raise EventRefusedError(str(error)) from error
        except ValidationError as error:
            raise _refused(event_type, error) from None
        return self.send_record(record, envelope.id)

    def send_record(self, record: Record, event_id: str) -> Delivery:
        """Send a record that was encoded before; see ``send`` for what may be raised."""
        if self._closed:
            raise ClosedError("the publisher is closed; open a new one")
        if not self._room.acquire(timeout=self._block_seconds):
            raise BufferFullError(
                f"as many events as allowed have waited for the broker for {self._block_seconds:g} s"
            )
        delivery = Delivery(event_id)

        def on_done(error: BaseException | None) -> None:
            self._room.release()
            failure = None if error is None else _as_delivery_error(record.topic, error)
            if failure is not None:
                with self._lock:
                    self._failed.append(failure)
            delivery.settle(failure)
            if failure is not None and self._on_error is not None:
                self._on_error(delivery, failure)

        try:
            self._sink.send(record, on_done)
        except BaseException:
            self._room.release()
            raise
        return delivery

    def _new_event_id(self) -> str:
        # One random number per publisher: asking the system for one per event costs more than all else here.
        return f"{self._prefix}-{os.getpid():x}-{next(self._numbers):x}"

    def flush(self, timeout_seconds: float = 60.0) -> None:
        """Wait until every event sent so far is confirmed.

        Raises:
            DeliveryError: if one was not since the last flush; the text says how many.
        """
        self._sink.flush(timeout_seconds)
        with self._lock:
            failed, self._failed = self._failed, []
        if failed:
            raise DeliveryError(
                f"{len(failed)} event(s) were not delivered; the first: {failed[0]}"
            ) from failed[0]

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Give back the connection; call ``flush`` first, or use ``with``."""
        if not self._closed:
            self._closed = True
            self._sink.close(timeout_seconds)


class InteractionPublisher(EventPublisher):
    """Publishes ``interaction.recorded.v1``."""

    def publish(
        self,
        interaction: InteractionV1 | Mapping[str, Any],
        *,
        event_id: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Delivery:
        """Send one interaction.

        Args:
            interaction: the event, or a JSON-like mapping with the same fields.
            event_id: identity for safe retries; by default one of its own.
            traceparent: W3C trace context to carry on.
            tracestate: its vendor part.

        Raises:
            EventRefusedError: if it breaks the schema; the text names field and rule.
        """
        return self.send(
            as_event(InteractionV1, interaction),
            INTERACTION_RECORDED,
            event_id=event_id,
            traceparent=traceparent,
            tracestate=tracestate,
        )


class ConsentPublisher(EventPublisher):
    """Publishes ``consent.granted.v1`` and ``consent.withdrawn.v1``."""

    def grant(
        self,
        *,
        tenant_id: str,
        user_id: str,
        notice_version: str,
        purpose: ConsentPurpose = ConsentPurpose.TRAINING,
        occurred_at: datetime | None = None,
        event_id: str | None = None,
    ) -> Delivery:
        """Say that a user agreed to one purpose under one version of the notice."""
        event = _consent(tenant_id, user_id, notice_version, purpose, occurred_at)
        return self.send(event, CONSENT_GRANTED, event_id=event_id)

    def withdraw(
        self,
        *,
        tenant_id: str,
        user_id: str,
        notice_version: str,
        purpose: ConsentPurpose = ConsentPurpose.TRAINING,
        occurred_at: datetime | None = None,
        event_id: str | None = None,
    ) -> Delivery:
        """Say that a user no longer agrees to one purpose."""
        event = _consent(tenant_id, user_id, notice_version, purpose, occurred_at)
        return self.send(event, CONSENT_WITHDRAWN, event_id=event_id)


class ErasurePublisher(EventPublisher):
    """Publishes ``erasure.requested.v1``."""

    def request(
        self,
        *,
        tenant_id: str,
        user_id: str,
        request_id: str | None = None,
        reason: ErasureReason = ErasureReason.USER_REQUEST,
        occurred_at: datetime | None = None,
    ) -> Delivery:
        """Ask for a user to be erased; the certificate will repeat ``request_id``.

        One id is one person's: a request with the id of another person's is dead-lettered and erases nobody.
        """
        request_id = request_id or uuid.uuid4().hex
        fields = {
            "tenant_id": tenant_id,
            "user_id": user_id,
            "request_id": request_id,
            "reason": reason,
            "occurred_at": occurred_at or datetime.now(UTC),
        }
        return self.send(_made(ErasureRequestedV1, fields), ERASURE_REQUESTED, event_id=request_id)


class AckPublisher(EventPublisher):
    """Publishes what a server did with adapter versions."""

    def publish(self, ack: ServingAckV1) -> Delivery:
        """Send one report; the status decides the event type."""
        return self.send(ack, AckStatus(ack.status).event_type)


def as_broker(broker: str | Broker) -> Broker:
    """Return ``broker``, or a plain-text connection to the address that it is."""
    return KafkaBroker(bootstrap=broker) if isinstance(broker, str) else broker


def as_event(model: type[Event], event: Event | Mapping[str, Any]) -> Event:
    """Return ``event``, or the event that a JSON-like mapping describes.

    Raises:
        EventRefusedError: if the mapping breaks the schema.
    """
    return event if isinstance(event, model) else _made(model, dict(event))


def _made(model: type[Event], fields: dict[str, Any]) -> Event:
    try:
        return model.model_validate_json(pydantic_core.to_json(fields))
    except ValidationError as error:
        raise _refused(model.__name__, error) from None
    except pydantic_core.PydanticSerializationError as error:
        raise EventRefusedError(f"{model.__name__}: a field cannot be written as JSON") from error


def _consent(
    tenant_id: str, user_id: str, notice_version: str, purpose: ConsentPurpose, occurred_at: datetime | None
) -> ConsentV1:
    fields = {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "purpose": purpose,
        "notice_version": notice_version,
        "occurred_at": occurred_at or datetime.now(UTC),
    }
    return _made(ConsentV1, fields)


def _refused(what: str, invalid: ValidationError) -> EventRefusedError:
    first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the event"
    return EventRefusedError(f"{what} was not sent: {where}: {first['msg']}")


def _as_delivery_error(topic: str, error: BaseException) -> DeliveryError:
    if isinstance(error, DeliveryError):
        return error
    failure = DeliveryError(f"an event for {topic} was not confirmed: {type(error).__name__}")
    failure.__cause__ = error
    return failure
