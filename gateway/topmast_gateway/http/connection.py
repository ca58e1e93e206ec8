"""One HTTP connection: httptools' parser with bounds on size and time, one request after the other.

The parser refuses malformed framing by itself. Refused here is what is well formed and yet read differently by the
next proxy, or costs memory or a place without end. Nothing is logged: anybody could fill the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

import httptools

from topmast_gateway.http.deadline import Deadline
from topmast_gateway.http.exchange import Exchange
from topmast_gateway.http.flow_control import FlowControl
from topmast_gateway.http.head import MAX_HEAD_BYTES, MAX_HEADERS, is_too_large, refusal, target, wrong_with
from topmast_gateway.messages.request import Header, Request

_MAX_BARE_BYTES: Final = 16 * 1024  # in a body's time without a byte of body: chunk extensions, trailers
HEAD_S = 10.0
_IDLE_S = 75.0
_LINGER_S = 10.0  # for the rest of a body that was answered already
_LAST_S = 1.0
_DROPPED_BYTES: Final = 1024 * 1024  # of what a client sends before it reads that it is refused
_LAST_USE_S = 5.0  # idle, of a client that could not be asked to go


class RequestRejected(Exception):
    """Stops the parser; what had to be said was said."""


class Connection(asyncio.Protocol):
    """A head too long gets 431, a wrong one 400 with a sentence; what is too slow is cut off.

    Requests sent ahead of an answer are not taken, as HTTP allows: the connection ends after that answer.
    `requested` takes each request; `entered` is asked for a place by the client's address, and `closed` is called at
    the end of a connection that got one.
    """

    def __init__(
        self,
        requested: Callable[[Request, Exchange], None],
        entered: Callable[[Connection, str], bool],
        closed: Callable[[Connection, str], None],
    ) -> None:
        self._requested, self._entered, self._closed = requested, entered, closed
        self.transport: asyncio.Transport
        self._peer = ""  # of one that has a place
        self._deadline = Deadline(self._too_slow)
        self._parser: Any = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None  # the last one
        self._url = b""
        self._headers: list[Header] = []
        self._in_head = self._in_body = self._is_idle = False
        self._deaf = False  # what still comes is dropped, and the connection ends with the answer under way
        self._leaving = False
        self._head_began = self._body_came = False  # in the data that is being looked at
        self._head_bytes = self._bare_bytes = self._dropped_bytes = 0
        self._reads = True
        self.flow = FlowControl()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = str((transport.get_extra_info("peername") or ("unknown",))[0])
        if not self._entered(self, peer):
            self.transport.abort()
            return
        self._peer = peer
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.close()
        if self._peer:
            self._closed(self, self._peer)
            self._peer = ""
        if self._exchange is not None and not self._exchange.complete:
            self._exchange.lost()
        self.flow.drain()

    def eof_received(self) -> None:
        """A client that sends no more is gone: the transport closes."""

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _DROPPED_BYTES:
                self.transport.close()
            return
        self._head_began = self._body_came = False
        if self._is_idle:
            self._stop_clock()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._deaf and not self.transport.is_closing():
                self._refuse(400, "invalid_http", "this is not a valid HTTP/1.1 request")
        if self._deaf or self.transport.is_closing():
            return
        if self._in_body:
            self._bare_bytes = 0 if self._body_came else self._bare_bytes + len(data)
            if self._bare_bytes > _MAX_BARE_BYTES:
                self._refuse(400, "invalid_http", "the body has too long chunk extensions or trailers: leave them out")
        elif self._in_head:
            # Of data in which the head began, an unknown part is older; its size is checked when it is complete.
            self._head_bytes += 0 if self._head_began else len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_size()
            elif not self._deadline.is_set:
                self._deadline.set(HEAD_S)
        elif not self._answering() and not self._is_idle:
            self._expect_head()  # empty lines between requests

    def pause_writing(self) -> None:
        self.flow.fill()

    def resume_writing(self) -> None:
        self.flow.drain()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._answering():
            self._end_with_the_answer()
            raise RequestRejected
        self._head_began = True
        self._url, self._headers = b"", []
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # they would come after the request's headers were looked at
            self._stop(400, "invalid_http", "trailer fields are not accepted: send them as headers")
        self._headers.append((name.lower(), value))
        if len(self._headers) > MAX_HEADERS:
            self._stop(431, "headers_too_large", f"the request has more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._in_head = False
        if is_too_large(self._url, self._headers):
            self._refuse_size()
            raise RequestRejected
        version = self._parser.get_http_version()
        if wrong := wrong_with(version, self._parser.should_upgrade(), self._headers):
            self._stop(400, "invalid_http", wrong)
        path, query = target(self._url)
        method = self._parser.get_method().decode("ascii")
        self._exchange = Exchange(
            self,
            method,
            can_chunk=version == "1.1",
            keep_alive=version == "1.1" and not self._leaving and self._parser.should_keep_alive(),
            expects_continue=(b"expect", b"100-continue") in self._headers,
        )
        self._in_body, self._bare_bytes = True, 0
        self._requested(Request(method, path, query, self._headers, self._peer, self._exchange), self._exchange)

    def on_body(self, body: bytes) -> None:
        self._body_came = True
        assert self._exchange is not None
        self._exchange.feed(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        assert self._exchange is not None
        self._exchange.feed_end()
        if self._exchange.complete:
            self._be_idle()

    # What the exchange and the server ask for.

    def let_in(self, more: bool) -> None:
        """Continue reading, or stop."""
        if more is not self._reads and not self.transport.is_closing():
            self._reads = more
            (self.transport.resume_reading if more else self.transport.pause_reading)()

    def exchange_ended(self) -> None:
        """The answer is complete: the next request, the rest of this one's body, or the end of the connection."""
        assert self._exchange is not None
        if self.transport.is_closing() or self._exchange.gone:
            return
        if not self._exchange.keep_alive:
            self.transport.close()
            return
        self.let_in(True)
        if self._in_body:
            # Refused before its body was there. Without an end, whoever has no key could hold connections for ever.
            self._start_clock(_LINGER_S)
        else:
            self._be_idle()

    def hang_up(self) -> None:
        """Close the connection, behind what was written."""
        self.transport.close()

    def leave(self) -> None:
        """From now on an answer's head says that the connection ends with it.

        A connection that is closed as a request comes loses that request. So whoever could not be asked to close,
        because the head was sent already or nothing is under way, may ask once more; only long silence is closed on.
        """
        if self._leaving:
            return
        self._leaving = True
        if self._exchange is not None and self._answering() and not self._exchange.started:
            self._exchange.keep_alive = False
        if self._is_idle:
            self._be_idle()

    def abort(self) -> None:
        """At once, whatever is under way."""
        self.transport.abort()

    # Its own.

    def _be_idle(self) -> None:
        self._start_clock(_LAST_USE_S if self._leaving else _IDLE_S)
        self._is_idle = True

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        if not self._deadline.is_set:
            self._deadline.set(HEAD_S)

    def _start_clock(self, seconds: float) -> None:
        self._is_idle = False
        self._deadline.set(seconds)

    def _stop_clock(self) -> None:
        self._is_idle = False
        self._deadline.clear()

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _stop(self, status: int, code: str, message: str) -> NoReturn:
        self._refuse(status, code, message)
        raise RequestRejected

    def _refuse_size(self) -> None:
        self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, unless there is an answer already: a second one could be taken for the next request's."""
        exchange = self._exchange if self._in_body else None
        if exchange is not None and exchange.started:
            if self._answering():
                self._end_with_the_answer()
            else:
                self.transport.close()
            return
        self.transport.write(refusal(status, code, message))
        if exchange is not None:
            exchange.lost()  # the application must not write behind this answer
        self._turn_away()

    def _turn_away(self) -> None:
        """Closing on what is still being sent would reset the connection, and the answer would be lost with it."""
        self._deaf = True
        self.let_in(True)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._start_clock(_LAST_S)
        else:
            self.transport.close()

    def _answering(self) -> bool:
        return self._exchange is not None and not self._exchange.complete and not self._exchange.gone

    def _end_with_the_answer(self) -> None:
        self._stop_clock()
        self._deaf = True
        assert self._exchange is not None
        self._exchange.keep_alive = False
        self.let_in(True)
