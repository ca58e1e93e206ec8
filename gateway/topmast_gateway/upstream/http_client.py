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

from topmast_gateway.upstream.engine_response import EngineResponse

_MOST_HEAD_BYTES: Final = 64 * 1024


class EngineConnection(asyncio.Protocol):
    """Carries one answer at a time.

    Its `taker`, where it has one, gets the answer's body piece by piece as it comes. Slots, here and in what an event
    passes further on: when its next event comes, a stream's state has left the core's cache, and every line of memory
    less is time saved (docs/performance.md).
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

    def send(self, head: bytes, body: bytes | bytearray, wait_s: float) -> EngineResponse:
        """Send a request, and give its answer, of which nothing is here yet. Who waits for it does so for `wait_s`."""
        response = self._response = EngineResponse(self)
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes, self._until_close, self._between_chunks, self.heard = 0, False, False, False
        self.transport.writelines((head, body))
        response.idle.start(wait_s)
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
