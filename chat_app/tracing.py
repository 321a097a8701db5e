"""Traces by OpenTelemetry, if OTEL_EXPORTER_OTLP_ENDPOINT is set. Else no library is wrapped and there are no spans.

Spans leave the process with the attributes in ALLOWED only. Never add a phone, token, text, path, query or SQL value.
"""

import asyncio
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from opentelemetry.context import Context, attach, get_value, set_value
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
    set_tracer_provider,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# The libraries also record paths, queries, addresses, headers and texts of errors.
ALLOWED = re.compile(
    r"chat\..+|db\.(system|system\.name|statement|query\.text)|error\.type"
    r"|http\.(route|method|status_code|request\.method|response\.status_code)"
)
# The statement that takes locks has ids in its text. All others have placeholders.
LITERAL = re.compile("'[^']*'")
# In the context of a batch: the spans of its sends.
SPANS = "chat.spans"

# None: there are no spans.
tracer: Tracer | None = None


def configure() -> None:
    """Export spans from here on, if an endpoint is set. Raises ImportError without the packages for it."""
    global tracer
    if not os.environ.get(ENDPOINT):
        return
    # Optional: the image has them, `make run` installs none.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

    def plain(span: ReadableSpan) -> ReadableSpan:
        about = (span.name, span.context, span.parent, span.resource, _plain(span.attributes or {}), (), span.links)
        times = (Status(span.status.status_code), span.start_time, span.end_time)
        return ReadableSpan(*about, span.kind, None, *times, span.instrumentation_scope)

    class Exporter(OTLPSpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            # Statements without a parent are those of heartbeats, sweeps and the like.
            return super().export([plain(span) for span in spans if span.parent or span.kind is not SpanKind.CLIENT])

    name = os.environ.get("OTEL_SERVICE_NAME", "chat-app")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(Exporter()))
    # FastAPI makes the spans of requests with it.
    set_tracer_provider(provider)
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]  # the library is not typed here
    HTTPXClientInstrumentor().instrument()
    tracer = provider.get_tracer("chat_app")


async def close() -> None:
    """Export the last spans."""
    if tracer:
        await asyncio.to_thread(cast(Any, get_tracer_provider()).shutdown)


def begin(command: str | None, request_id: str, handshake: str | None) -> Span | None:
    """Begin the span of a command, with a link to the trace in the `traceparent` of the handshake."""
    if tracer is None:
        return None
    links = [Link(get_current_span(_context(handshake)).get_span_context())] if handshake else []
    return tracer.start_span(command or "unknown", Context(), SpanKind.SERVER, {"chat.request_id": request_id}, links)


def end(span: Span | None, status: int, code: str) -> None:
    if span:
        span.set_attribute("chat.code", code)
        span.set_status(StatusCode.ERROR if status >= 500 else StatusCode.UNSET)
        span.end()


def describe_request(request_id: str, code: str) -> None:
    """Complete the span of an HTTP request, before the answer ends it."""
    if tracer:
        get_current_span().set_attributes({"chat.request_id": request_id, "chat.code": code})


def within(span: Span | None) -> AbstractContextManager[object]:
    """What is done inside is part of this span."""
    return use_span(span, record_exception=False, set_status_on_exception=False) if span else nullcontext()


def share(spans: Iterable[Span | None]) -> None:
    """What this task does from here on is part of the first span. The others, which share it, get a link to that."""
    if tracer:
        first, *others = recorded = [span for span in spans if span and span.is_recording()] or [INVALID_SPAN]
        for other in others:
            other.add_link(first.get_span_context())
        attach(set_value(SPANS, recorded, set_span_in_context(first)))


def headers() -> dict[str, list[str]]:
    """For a message of the bus: the `traceparent` of each request and command whose commit this is."""
    if tracer is None:
        return {}
    spans = cast(list[Span] | None, get_value(SPANS)) or [get_current_span()]
    contexts = [context for span in spans if (context := span.get_span_context()).trace_flags.sampled]
    return {"traces": [f"00-{context.trace_id:032x}-{context.span_id:016x}-01" for context in contexts]}


def delivered(parents: Sequence[str], began: int, node: str, connections: int) -> None:
    """Make the spans of a delivery of another node's commit, which began at this time in nanoseconds."""
    if tracer:
        about: Mapping[str, str | int] = {"chat.node": node, "chat.connections": connections}
        for parent in parents:
            tracer.start_span("deliver", _context(parent), SpanKind.CONSUMER, about, start_time=began).end()


def _context(traceparent: str) -> Context:
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    allowed = {name: value for name, value in attributes.items() if ALLOWED.fullmatch(name)}
    return {name: LITERAL.sub("'…'", value) if isinstance(value, str) else value for name, value in allowed.items()}
