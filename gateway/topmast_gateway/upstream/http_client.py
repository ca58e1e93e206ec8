"""One connection to an engine: a request, its answer as it comes, then the next request.

Owns the framing of HTTP/1.1, which httptools parses, and nothing of what is said. A general client takes more time for
a request than all of the gateway's own work (docs/decisions/0009).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, cast

import httptools

from topmast_gateway.messages.request import Header
from topmast_gateway.upstream.failures import BadAnswer, ConnectionLost

_MOST_HEAD_BYTES: Final = 64 * 1024
_MOST_AHEAD_BYTES: Final = 256 * 1024  # read and not yet passed on; then the engine has to wait


class EngineResponse:
    """An answer, from the first byte of its head on. Names of headers are in lower case.

    What came before a break is still given; then it is ConnectionLost.
    """

    def __init__(self, connection: EngineConnection) -> None:
        self.status = 0  # until the head is complete
        self.headers: list[Header] = []
        self._connection, self._transport = connection, connection.transport
        self.pieces: list[bytes] = []  # of the body, that were not taken yet
        self._ahead_bytes = 0
        self._complete = self._paused = False
        self._trouble = ""
        self._waiting: asyncio.Future[None] | None = None
        self._failure: Exception | None = None  # of who takes the pieces as they come

    def header(self, name: bytes) -> bytes | None:
        """The first one of that name."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    async def head(self) -> None:
        """Return when status and headers are known."""
        while not self.status:
            await self._wait_for_data()

    async def chunk(self) -> bytes:
        """What has come since the last one; empty at the body's end."""
        while not self.pieces:
            if self._complete:
                return b""
            await self._wait_for_data()
        found = self._take_pieces()
        self.resume()
        return found

    async def relay(self, take: Callable[[bytes], None]) -> None:
        """Hand the rest of the body to `take`, each piece when it is read; what `take` raises ends it."""
        self._connection.taker = take
        self._ahead_bytes = 0
        self.resume()  # so much may have come before anybody asked that the reading was stopped
        try:
            while True:
                self.deliver(take)
                if self._failure is not None:
                    raise self._failure
                if self._complete:
                    return
                await self._wait_for_data()
        finally:
            self._connection.taker = None

    async def read(self, largest_bytes: int) -> bytes:
        """The whole body, where no piece was taken before; BadAnswer where it is larger than that."""
        pieces, size = [], 0
        while piece := await self.chunk():
            pieces.append(piece)
            size += len(piece)
            if size > largest_bytes:
                raise BadAnswer(f"the engine's answer is larger than {largest_bytes} bytes")
        return b"".join(pieces)

    def pause(self) -> None:
        """The engine has to wait."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The engine may continue."""
        if self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
        self._paused = False

    def came(self, size: int) -> None:
        """The wire has added so many bytes, for who will ask. It reads no faster than they are passed on."""
        self._ahead_bytes += size
        if self._ahead_bytes > _MOST_AHEAD_BYTES and not self._complete:
            self.pause()
        self._wake()

    def end(self, trouble: str = "") -> None:
        """The wire has all of it, or all that will ever come."""
        self._complete, self._trouble = not trouble, trouble
        self.resume()  # who reads no further must not leave a connection that is deaf
        self._wake()

    def deliver(self, take: Callable[[bytes], None]) -> None:
        """Hand what was collected to who relays the body."""
        if self.pieces:
            try:
                take(self._take_pieces())
            except Exception as error:
                self.not_taken(error)

    def not_taken(self, error: Exception) -> None:
        """Who relays the body wants no more of it."""
        self._failure, self._connection.taker = error, None
        self._wake()

    def _take_pieces(self) -> bytes:
        found = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self._ahead_bytes = 0
        return found

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait_for_data(self) -> None:
        if self._trouble:
            raise ConnectionLost(self._trouble)
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None


class EngineConnection(asyncio.Protocol):
    """Carries one answer at a time.

    Its `taker`, where it has one, gets the answer's body piece by piece as it comes. Slots, here and in what an event
    passes further on: when its next event comes, a stream's state has left the core's cache, and every line of memory
    less is a tenth of a microsecond (docs/performance.md).
    """

    __slots__ = (
        "_between_chunks",
        "_head_bytes",
        "_parser",
        "_response",
        "_until_close",
        "heard",
        "taker",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.taker: Callable[[bytes], None] | None = None
        self._parser: Any = None
        self._response: EngineResponse | None = None  # that is not complete yet
        self.heard = False  # whether anything came of the last request's answer
        self._head_bytes = 0
        self._until_close = False  # the answer's end is the connection's
        self._between_chunks = False  # the parser has seen the end of one, and nothing behind it

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: nothing is under way, and nobody has said good-bye."""
        idle = self._response is None and not self.transport.get_write_buffer_size()
        return idle and not self.transport.is_closing()

    async def send(self, head: bytes, body: bytes | bytearray) -> EngineResponse:
        """Send a request, and give its answer when the head of that is here."""
        response = self._response = EngineResponse(self)
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes, self._until_close, self._between_chunks, self.heard = 0, False, False, False
        self.transport.writelines((head, body))
        await response.head()
        return response

    def close(self) -> None:
        """At once, whatever is under way: this is how an engine learns that it may stop."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._until_close and error is None:
            self._end()
        else:
            self._end(f"{type(error).__name__}: {error}" if error else "the engine closed the connection")

    def data_received(self, data: bytes) -> None:
        if (take := self.taker) is not None and self._between_chunks:
            # A chunk as a whole, as nearly every event comes: the parser misses nothing without it.
            head = _chunk_head(len(data))
            if data.startswith(head) and data.endswith(b"\r\n"):
                try:
                    take(data[len(head) : -2])
                except Exception as error:
                    self._response.not_taken(error)  # type: ignore[union-attr]  # it has a taker
                return
        response = self._response
        if response is None:  # nobody asked
            self.close()
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"the engine's answer is not HTTP: {error}")
        if not response.status:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._break("the head of the engine's answer is too large")
        if take is not None:
            response.deliver(take)
        else:
            response.came(len(data))

    def on_message_begin(self) -> None:
        if self._response is None:  # there is more behind the answer: whose would that be?
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None and not self._response.status:  # else a trailer
            self._response.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        response, status = self._response, self._parser.get_status_code()
        if response is None:
            return
        if status < 200:  # on the way to the answer
            response.headers.clear()
            return
        if status >= 600:
            self._break(f"the engine's answer has the status {status}")
            return
        response.status = status
        framed = response.header(b"content-length") or response.header(b"transfer-encoding")
        self._until_close = framed is None and status not in (204, 304)

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._response.pieces.append(body)

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        if self._response is not None and self._response.status:
            if not self._parser.should_keep_alive():
                self.close()
            self._end()

    def _break(self, why: str) -> None:
        self._end(why)
        self.close()

    def _end(self, trouble: str = "") -> None:
        if self._response is not None:
            self._response.end(trouble)
            self._response = self.taker = None


@lru_cache(4096)
def _chunk_head(size: int) -> bytes:
    """What a chunk begins with that takes so many bytes with its framing. Where none does, what nothing begins with."""
    for digits in range(1, 9):
        body = size - digits - 4
        if body > 0 and len(head := b"%x\r\n" % body) == digits + 2:
            return head
    return bytes(size + 1)
