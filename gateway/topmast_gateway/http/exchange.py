"""One request and its answer on a connection: the body as it comes in, and the framing of what goes out.

It knows nothing of what is asked or answered. Whatever is done to it after the client has gone has no effect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol

from topmast_gateway.http.flow_control import FlowControl
from topmast_gateway.messages.request import ClientDisconnected, Header

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_MOST_UNREAD_BYTES: Final = 64 * 1024
_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_WITHOUT_BODY: Final = (204, 304)


class Wire(Protocol):
    """The connection, as far as an exchange needs it."""

    flow: FlowControl
    transport: asyncio.Transport

    def let_in(self, more: bool) -> None:
        """Continue reading, or stop."""

    def exchange_ended(self) -> None:
        """The answer is complete."""

    def hang_up(self) -> None:
        """Close the connection."""


class Exchange:
    """`keep_alive` may turn False until the answer's head is written, and the head says so."""

    __slots__ = (  # for every event passes here: see EngineConnection
        "_can_chunk",
        "_chunked",
        "_disconnected",
        "_expects_continue",
        "_has_body",
        "_head",
        "_is_plain",
        "_transport",
        "_unread",
        "_waiting",
        "_wire",
        "complete",
        "gone",
        "is_whole",
        "keep_alive",
        "started",
    )

    def __init__(self, wire: Wire, method: str, *, can_chunk: bool, keep_alive: bool, expects_continue: bool) -> None:
        self._wire = wire
        self._transport = wire.transport
        self._has_body = method != "HEAD"
        self._can_chunk = can_chunk
        self._expects_continue = expects_continue
        self._unread = bytearray()
        self.is_whole = False  # the request's body is here
        self._waiting: asyncio.Future[None] | None = None
        self._disconnected: Callable[[], None] | None = None
        self._head = b""  # that waits for the first piece of its body
        self._chunked = False
        self._is_plain = False  # the head is sent, and every piece of the body is a chunk
        self.keep_alive = keep_alive
        self.started = self.complete = self.gone = False

    # The request's body.

    def feed(self, data: bytes) -> None:
        """A piece of it has come."""
        if self.complete:
            return  # it was answered without being read
        self._unread += data
        if len(self._unread) > _MOST_UNREAD_BYTES:
            self._wire.let_in(False)
        self._wake()

    def feed_end(self) -> None:
        """All of it has come."""
        self.is_whole = True
        self._wake()

    async def read(self) -> bytes:
        """What has come since the last call; empty at the body's end. ClientDisconnected when no more will."""
        if self._expects_continue:
            self._expects_continue = False
            if not (self.is_whole or self._unread or self.started):
                self._transport.write(_CONTINUE)
        while not self._unread and not self.is_whole:
            if self.gone:
                raise ClientDisconnected
            self._wire.let_in(True)
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        found, self._unread = bytes(self._unread), bytearray()
        return found

    def on_disconnect(self, call: Callable[[], None] | None) -> None:
        """Call this once when the client is gone, at once where it is already; None takes it back."""
        self._disconnected = call
        if self.gone and call is not None:
            call()

    def lost(self) -> None:
        """The client is gone."""
        self.gone = True
        self._wake()
        if self._disconnected is not None:
            self._disconnected()

    # The answer.

    def on_full(self, call: Callable[[], None] | None) -> None:
        """Call this whenever the client reads more slowly than is written, at once where it does. None: no more."""
        self._wire.flow.on_full(call)

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call this once when the client has read enough, or is gone."""
        self._wire.flow.on_drained(call)

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""
        await self._wire.flow.drained()

    def start(self, status: int, headers: list[Header]) -> None:
        """The head; it is sent with the next piece. ValueError where a header would be two."""
        self.started = True
        framed = status in _WITHOUT_BODY or not self._has_body
        lines = [b"HTTP/1.1 %d %b" % (status, _PHRASES.get(status, b""))]
        for name, value in headers:
            lower = name.lower()
            if lower == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            framed = framed or lower == b"content-length"
            lines.append(b"%b: %b" % (name, value))
        if not framed:
            self._chunked = self._can_chunk
            if self._chunked:
                lines.append(b"transfer-encoding: chunked")
            else:
                self.keep_alive = False
        lines.append(_date(int(time.time())))
        if not self.keep_alive:
            lines.append(b"connection: close")
        self._head = b"\r\n".join([*lines, b"", b""])
        if self._head.count(b"\n") != len(lines) + 1:
            raise ValueError("a header holds a line break")

    def write(self, data: bytes) -> None:
        """A piece of the body."""
        if self._is_plain and data and not self.gone:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))  # nearly every event comes here
            return
        if self.gone or not data:
            return
        if not self._has_body:
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
            self._is_plain = self._chunked and self._has_body
        self._transport.write(data)

    def end(self, data: bytes = b"") -> None:
        """The last piece, and the end of the body."""
        if self.complete:
            return
        self.write(data)
        last, self._head = self._head + (b"0\r\n\r\n" if self._chunked else b""), b""
        if last and not self.gone:
            self._transport.write(last)
        self.complete = True
        self._unread.clear()
        self._wire.exchange_ended()

    def break_off(self) -> None:
        """Nobody will complete the answer: the end of the connection says so."""
        self.complete = True
        self._wire.hang_up()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@lru_cache(maxsize=2)
def _date(now: int) -> bytes:
    return time.strftime("date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()
