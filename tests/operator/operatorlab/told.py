"""An engine's `/state` and a gateway's `/queue` with numbers that a test sets: small real HTTP servers on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
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


@dataclass
class ToldQueue:
    """What a gateway says of its queue, to who shows the token."""

    ip: str
    token: str
    model: str  # namespace/name
    waiting: int = 0  # requests of 100 and 10 tokens
    asked: int = 0

    def body(self) -> dict[str, Any]:
        self.asked += 1
        nobody = {"requests": 0, "prompt_tokens": 0, "output_tokens": 0}
        waiting = {"requests": self.waiting, "prompt_tokens": 100 * self.waiting, "output_tokens": 10 * self.waiting}
        return {"replica": self.ip, "models": {self.model: {"waiting": waiting, "oldest_s": 1.0, "gone": nobody}}}


@contextmanager
def telling(ip: str) -> Iterator[Told]:
    """Answers at port 8001 of `ip` until the end of the block."""
    told = Told(ip)
    with _answering(ip, 8001, lambda _: told.body()):
        yield told


@contextmanager
def telling_queue(ip: str, token: str, model: str) -> Iterator[ToldQueue]:
    """Answers at port 8081 of `ip` until the end of the block."""
    told = ToldQueue(ip, token, model)

    def answer(authorization: str) -> dict[str, Any] | None:
        return told.body() if authorization == f"Bearer {token}" else None

    with _answering(ip, 8081, answer):
        yield told


@contextmanager
def _answering(ip: str, port: int, answer: Callable[[str], dict[str, Any] | None]) -> Iterator[None]:
    """`answer` is given the Authorization header, and refuses with None."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = answer(self.headers.get("Authorization", ""))
            body = json.dumps(found).encode()
            self.send_response(401 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer((ip, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
