"""uvicorn with bounds: on the size and the time of a request's head, and on the number of connections.

uvicorn's fast parser has none of them: a head without end would fill the memory, a silent connection stays for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from topmast_gateway.errors import envelope

MAX_HEAD_BYTES = 32 * 1024
_HEAD_S = 10.0
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


class Protocol(HttpToolsProtocol):
    """One connection. A head that is too long gets 431, one that is too slow is cut off."""

    max_connections = 10_000

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._head_bytes = 0
        self._head_clock: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._head_begins()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ends()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_clock is not None:
            # Still inside a head: nothing of what came was a body.
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        self._head_begins()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_ends()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
            return
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            self._refuse(400, "invalid_http", "this is not a valid HTTP/1.1 request")

    def _head_begins(self) -> None:
        self._head_bytes = 0
        if self._head_clock is None:
            self._head_clock = self.loop.call_later(_HEAD_S, self._too_slow)

    def _head_ends(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _too_slow(self) -> None:
        self._head_clock = None
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = envelope(message, "invalid_request_error", code)
        phrase = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class Listener(uvicorn.Server):
    """A server whose signals are handled elsewhere: a signal starts a drain, it closes nothing by itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listener(app: Any, *, drain_timeout_s: float) -> Listener:
    """A server for `app`, to be run by `serve(sockets=[...])`."""
    return Listener(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, int(drain_timeout_s)),
            backlog=_BACKLOG,
        )
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening address, bound before anything else starts so that a taken port is the first thing said."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
