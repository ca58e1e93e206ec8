"""What a gateway records of its requests: a line in its log and a span in a trace, and never what people wrote."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.lab.journaling import JournalEngine
from gateway.lab.stage import KEY, Gateway, Stage, eventually
from topmast_gateway.observability.tracing import Tracing

CHAT = "/v1/chat/completions"
SECRET = "nobody but the engine may read this"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """What an OpenTelemetry collector does: take spans over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.raw = b""
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.raw += body
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    taken.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


async def test_a_request_is_a_line_and_a_span_and_neither_shows_what_was_written(
    stage: Stage,
    new_gateway: Callable[..., Gateway],
    namespace: str,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    where = tmp_path / "access.jsonl"
    gateway = new_gateway("--namespace", namespace, "--access-log", str(where)).wait_ready()
    headers = {"Authorization": f"Bearer {KEY}", "traceparent": PARENT, "X-Request-Id": "seen"}
    async with JournalEngine() as engine, httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        body = {"model": "m", "messages": [{"role": "user", "content": SECRET}], "stream": True}
        assert (await http.post(CHAT, json=body)).status_code == 200
        assert (await http.get(f"/{SECRET}", headers={"Authorization": "Bearer wrong"})).status_code == 401
        eventually(lambda: where.exists() and where.read_text().count("\n") == 2, "two lines")
        answered, refused = map(json.loads, where.read_text().splitlines())
        assert answered["request"] == "seen"
        assert answered["trace"] == PARENT.split("-")[1]
        assert (answered["status"], answered["tries"], answered["caller"]) == (200, 1, "tests")
        assert (answered["prompt"], answered["output"], answered["model"]) == (5, 6, f"{namespace}/m")
        assert 0 < answered["first"] <= answered["seconds"]
        assert (refused["status"], refused["tries"]) == (401, 0)
        assert "caller" not in refused

        eventually(lambda: len(collector.spans) == 2, "two spans")
        span = next(span for span in collector.spans if span.name == f"POST {CHAT}")
        assert span.trace_id.hex() == PARENT.split("-")[1]
        assert span.parent_span_id.hex() == PARENT.split("-")[2]
        reported = {each.key: each.value for each in span.attributes}
        assert reported["gen_ai.usage.output_tokens"].int_value == 6
        assert reported["topmast.pod"].string_value == answered["pod"]
        assert engine.headers[-1]["traceparent"].split("-")[2] == span.span_id.hex()  # the engine's part hangs below
        lines = where.read_text().replace(f"/{SECRET}", "")  # a path is the caller's own choice, and is logged
        assert SECRET not in lines + collector.raw.decode("latin-1")
        assert KEY not in lines


def test_without_a_collector_there_is_no_tracing() -> None:
    assert Tracing.of_environment({}) is None
