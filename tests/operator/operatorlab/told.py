"""An engine's `/state` whose numbers a test sets: a small real HTTP server on a loopback address of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Told:
    """What the engine says of itself."""

    ip: str
    phase: str = "ready"
    requests: int = 0
    running: int = 0
    accelerators: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "device": {"kind": "cuda" if self.accelerators else "cpu", "name": "a device", "count": self.accelerators},
            "load": {"bytes_done": 62, "bytes_total": 100, "eta_s": 3.0},
            "start": {"total_s": 1.0},
            "work": {"running": self.running, "waiting": 0, "requests_total": self.requests},
            "capacity": {"prefill_tokens_per_s": 900.0, "decode_tokens_per_s": 90.0, "kv_tokens": 1000},
        }


@contextmanager
def telling(ip: str) -> Iterator[Told]:
    """Answers at port 8001 of `ip` until the end of the block."""
    told = Told(ip)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps(told.body()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer((ip, 8001), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
