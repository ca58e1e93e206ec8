"""uvicorn as we run it: no signals of its own, no log lines of its own, and a bound on request heads.

httptools collects a request's head without any limit, so that one connection could fill the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from topmast_server.api.errors import ApiError, dump

MAX_HEAD_BYTES: Final = 64 * 2**10
_KEEP_ALIVE_S: Final = 75  # longer than the gateway's own, so that it is never the one surprised by a close


class HttpServer(uvicorn.Server):
    """One port. Signals are left to the program: they start a drain, they do not close connections."""

    def __init__(self, app: ASGIApp, last_answers_s: float) -> None:
        config = uvicorn.Config(
            app,
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(last_answers_s),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not ours to handle here."""
        yield


class _BoundedProtocol(HttpToolsProtocol):
    """Counts what arrives while a head is incomplete, and closes the connection beyond the limit."""

    _in_head = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            _refuse_head(self.transport)


def _refuse_head(transport: asyncio.Transport) -> None:
    message = f"the request's headers are larger than {MAX_HEAD_BYTES // 2**10} KiB; send fewer or shorter ones"
    body = dump(ApiError(431, message, code="headers_too_large").envelope())
    head = (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n"
    )
    transport.write(head % len(body) + body)
    transport.close()
