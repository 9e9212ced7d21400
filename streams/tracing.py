"""Trace context (W3C ``traceparent``) in and out; without an OpenTelemetry SDK configured all of it is free.

A round has one trace whoever works on it: its trace id is derived from the round id, so scheduler, trainer
and the adapter event meet in it without storing anything. Ingest spans link to the producers' contexts; a
round's trace never links to an interaction's, since that would say whose interactions an adapter was
trained on.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_LINKS = 32
_tracer = trace.get_tracer("discreet")


def current_traceparent() -> str | None:
    """Return the ``traceparent`` of the current span, if there is one."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def ingest_span(topic: str, events: int, traceparents: Iterable[str]) -> Iterator[None]:
    """Run one batch in a consumer span with links to (at most 32 of) the producers' spans."""
    links: list[Link] = []
    for text in traceparents:
        context = trace.get_current_span(propagate.extract({"traceparent": text})).get_span_context()
        if context.is_valid:
            links.append(Link(context))
        if len(links) == MAX_LINKS:
            break
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.batch.message_count": events,
    }
    with _tracer.start_as_current_span(
        f"process {topic}", kind=SpanKind.CONSUMER, links=links, attributes=attributes
    ):
        yield


def round_context(round_id: str) -> SpanContext:
    """Return the span context that every part of a round's work is a child of."""
    digest = hashlib.sha256(b"discreet round " + round_id.encode()).digest()
    return SpanContext(
        trace_id=int.from_bytes(digest[:16], "big"),
        span_id=int.from_bytes(digest[16:24], "big"),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


@contextmanager
def round_span(round_id: str, name: str) -> Iterator[None]:
    """Run a part of a round's work in the round's trace."""
    parent = trace.set_span_in_context(NonRecordingSpan(round_context(round_id)))
    with _tracer.start_as_current_span(name, context=parent):
        yield
