import pytest
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streams.errors import SettingsError
from streams.telemetry import tracing

PRODUCER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def test_a_batch_links_to_its_producers_and_names_no_user(spans):
    with tracing.ingest_span("discreet.interactions.v1", [PRODUCER, "not a traceparent"]):
        pass
    (span,) = spans.get_finished_spans()
    assert [trace.format_trace_id(link.context.trace_id) for link in span.links] == [
        "0af7651916cd43dd8448eb211c80319c"
    ]
    assert not any("key" in name or "count" in name for name in span.attributes)


def test_scheduler_and_adapter_event_of_a_round_share_one_trace(spans):
    with tracing.round_span("round-1", "open round"):
        pass
    (opened,) = spans.get_finished_spans()
    carried = tracing.traceparent_of("round-1")
    context = trace.get_current_span(propagate.extract({"traceparent": carried})).get_span_context()
    assert context.trace_id == opened.context.trace_id
    assert tracing.traceparent_of("round-2") != carried
    assert tracing.traceparent_of(None) is None


def test_an_exporter_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nowhere")
    with pytest.raises(SettingsError, match="nowhere"):
        tracing.configure()
