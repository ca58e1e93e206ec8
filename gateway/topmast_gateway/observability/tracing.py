"""Spans of requests, for those who collect traces: on where OpenTelemetry's own environment variables say where to.

Needs the extra `topmast[otel]`. Spans carry names, sizes and outcomes, never a prompt, an answer or a key. Without it
the caller's trace context is still passed on to the engine as it came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.observability.access_log import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CONTEXT = ("traceparent", "tracestate")
_NAMED = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/usage")  # any other path is the caller's words


class NoTracing(Exception):
    """Traces are wanted and cannot be written; the text says what to install."""


class Tracing:
    """Makes spans and sends them in the background."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("topmast.gateway")
        self._propagator = TraceContextTextMapPropagator()

    @staticmethod
    def of_environment(environment: Mapping[str, str] = os.environ) -> Tracing | None:
        """As OTEL_EXPORTER_OTLP_ENDPOINT and its kin say; None where nobody collects. Raises NoTracing."""
        if not any(environment.get(name) for name in _ENDPOINTS):
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            message = f"traces are wanted ({_ENDPOINTS[0]} is set) but {error.name} is missing: install topmast[otel]"
            raise NoTracing(message) from error
        provider = TracerProvider(resource=Resource.create({"service.name": "topmast-gateway"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return Tracing(provider)

    @contextmanager
    def span(self, request: Request) -> Iterator[Any]:
        """A server's span under the caller's; its context then replaces the caller's in the headers."""
        from opentelemetry.trace import SpanKind

        headers = request.headers
        carried = {name: headers[name.encode()].decode("latin-1") for name in _CONTEXT if name.encode() in headers}
        parent = self._propagator.extract(carried)
        path = request.path if request.path in _NAMED else ""
        name = f"{request.method} {path}".strip()
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER, record_exception=False) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            headers.update({key.encode(): value.encode("latin-1") for key, value in carrier.items()})
            yield span

    def close(self) -> None:
        """Send what is left, within the exporter's own time limit."""
        self._provider.shutdown()


def describe(span: Any, record: RequestRecord, writer: ResponseWriter) -> None:
    """Say in the span how the request ended, in OpenTelemetry's words where it has some."""
    usage = record.usage
    attributes = {
        "http.response.status_code": writer.status or 499,
        "enduser.id": record.caller,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": usage.prompt,
        "gen_ai.usage.output_tokens": usage.output,
        "topmast.request.id": writer.request_id,
        "topmast.cached_tokens": usage.cached,
        "topmast.pod": writer.pod,
        "topmast.tries": writer.tries,
    }
    span.set_attributes({name: value for name, value in attributes.items() if value != ""})
