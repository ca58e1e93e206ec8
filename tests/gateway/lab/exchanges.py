"""A request and its answer without a connection, for tests of what stands behind one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from topmast_gateway.messages.request import ClientDisconnected, Header, Request
from topmast_gateway.messages.response import ResponseWriter


class RecordingClient:
    """What a client sends, as a whole or piece by piece, and what it got."""

    def __init__(self, body: bytes | AsyncIterator[bytes] = b"") -> None:
        self._body = body
        self._on_disconnect: Callable[[], None] | None = None
        self.status = 0
        self.headers: list[Header] = []
        self.body = b""
        self.ended = False
        self.is_whole = False

    async def read(self) -> bytes:
        if not isinstance(self._body, bytes):
            return await anext(self._body, b"")
        body, self._body = self._body, b""
        return body

    def on_disconnect(self, call: Callable[[], None] | None) -> None:
        self._on_disconnect = call

    def leave(self) -> None:
        """It hangs up."""
        if self._on_disconnect:
            self._on_disconnect()

    def start(self, status: int, headers: list[Header]) -> None:
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        self.body += data

    def end(self, data: bytes = b"") -> None:
        self.body += data
        self.ended = True

    def on_full(self, call: Callable[[], None] | None) -> None: ...

    def on_drained(self, call: Callable[[], None]) -> None:
        call()

    async def drained(self) -> None: ...


def a_request(
    client: RecordingClient | None = None, *, method: str = "GET", path: str = "/", headers: Sequence[Header] = ()
) -> Request:
    """From 127.0.0.1, without a query."""
    return Request(method, path, b"", list(headers), "127.0.0.1", client or RecordingClient())


def a_writer(client: RecordingClient | None = None) -> ResponseWriter:
    """To a client that may be nobody."""
    return ResponseWriter(client or RecordingClient(), "r")


async def of(read: Callable[[], Awaitable[bytes | None]]) -> AsyncIterator[bytes]:
    """Pieces as `read` gives them; None is a client that has gone."""
    while (piece := await read()) is not None:
        yield piece
        if not piece:
            return
    raise ClientDisconnected
