"""Spans of requests, for those who collect traces: on where OpenTelemetry's own environment variables say where to.

Needs the extra `topmast[otel]`. Spans carry names, sizes and outcomes, never a prompt, an answer or a key. Without it
the caller's trace context is still passed on to the engine as it came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CONTEXT = ("traceparent", "tracestate")


class NoTracing(Exception):
    """Traces are wanted and cannot be made; the text says what to install."""


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
    def span(self, name: str, headers: dict[bytes, bytes]) -> Iterator[Any]:
        """A server's span under the caller's; `headers` then carry its context on, instead of the caller's."""
        from opentelemetry.trace import SpanKind

        carried = {key: headers[key.encode()].decode("latin-1") for key in _CONTEXT if key.encode() in headers}
        parent = self._propagator.extract(carried)
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER, record_exception=False) as span:
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            headers.update({key.encode(): value.encode("latin-1") for key, value in carrier.items()})
            yield span

    def close(self) -> None:
        """Send what is left, within the exporter's own time limit."""
        self._provider.shutdown()
