"""Trace context (W3C ``traceparent``) in and out; without an OpenTelemetry SDK configured all of it is free.

A round has one trace whoever works on it: its trace id is derived from the round id, so scheduler, trainer
and the adapter event meet in it without storing anything. Ingest spans link to the producers' contexts; a
round's trace never links to an interaction's, since that would say whose interactions an adapter was
trained on.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.errors import SettingsError

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
def ingest_span(topic: str, traceparents: Iterable[str]) -> Iterator[None]:
    """Run one batch in a consumer span with links to (at most 32 of) the producers' spans; its size stays here."""
    links: list[Link] = []
    for text in traceparents:
        context = trace.get_current_span(propagate.extract({"traceparent": text})).get_span_context()
        if context.is_valid:
            links.append(Link(context))
        if len(links) == MAX_LINKS:
            break
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
    }
    BOUNDARY.require(Kind.TRACE, list(attributes))
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


def traceparent_of(round_id: str | None) -> str | None:
    """Return the ``traceparent`` of the current span, else that of the round's trace, if there is a round."""
    current = current_traceparent()
    if current is not None or round_id is None:
        return current
    context = round_context(round_id)
    return f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}-01"


def configure() -> None:
    """Export spans when ``OTEL_TRACES_EXPORTER`` names exporters that are installed (``console``, ``otlp``, …).

    Raises:
        SettingsError: an exporter of that name is not installed.
    """
    names = [name for name in os.environ.get("OTEL_TRACES_EXPORTER", "none").split(",") if name != "none"]
    if not names:
        return
    provider = TracerProvider()
    for name in names:
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            raise SettingsError(
                f"OTEL_TRACES_EXPORTER names {name!r}, which is not installed; install it or set it to none"
            )
        provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    trace.set_tracer_provider(provider)


@contextmanager
def round_span(round_id: str, name: str) -> Iterator[None]:
    """Run a part of a round's work in the round's trace."""
    parent = trace.set_span_in_context(NonRecordingSpan(round_context(round_id)))
    with _tracer.start_as_current_span(name, context=parent):
        yield
