"""One HTTP connection: uvicorn's fast parser with bounds on size and time, and without what it takes too easily.

The parser refuses malformed framing by itself. Refused here is what is well formed and yet read differently by the
next proxy, or costs memory or a place without end. Nothing is logged: anybody could fill the log.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from topmast_gateway.http.connection_limits import ConnectionLimits
from topmast_gateway.messages.asgi import Header
from topmast_gateway.messages.errors import error_envelope

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 128
_MAX_BARE_BYTES = 16 * 1024  # in a body's time without a byte of body: chunk extensions, trailers
HEAD_S = 10.0
_LINGER_S = 10.0  # for the rest of a body that was answered already
_LAST_S, _DROPPED_BYTES = 1.0, 1024 * 1024  # of what a client sends before it reads that it is refused
_ONLY_ONCE = (b"host", b"authorization", b"x-api-key")
_LAST_USE_S = 5  # seconds idle, of a client that could not be asked to go
_PHRASES = {400: "Bad Request", 431: "Request Header Fields Too Large"}


class RequestRejected(Exception):
    """Stops the parser; what had to be said was said."""


class Connection(HttpToolsProtocol):
    """A head too long gets 431, a wrong one 400 with a sentence; what is too slow is cut off.

    Requests sent ahead of an answer are not taken, as HTTP allows: the connection ends after that answer. uvicorn would
    queue as many as a packet holds, and forget to tell the running one that its client has gone.
    """

    limits: ConnectionLimits  # of the server that takes connections
    _leaving = False
    _address: str | None = None  # of one that has a place

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._clock: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._deaf = False  # what still comes is dropped, and the connection ends with the answer under way
        self._head_began = self._body_came = False  # in the data that is being looked at
        self._head_bytes = self._bare_bytes = self._dropped_bytes = 0
        super().connection_made(transport)
        address = str((transport.get_extra_info("peername") or ("unknown",))[0])
        if not self.limits.enter(address):
            transport.abort()
            return
        self._address = address
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._address is not None:
            self.limits.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _DROPPED_BYTES:
                self.transport.close()
            return
        self._head_began = self._body_came = False
        super().data_received(data)
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
        elif not self._answering() and self.timeout_keep_alive_task is None:
            # Empty lines between requests: they stopped uvicorn's clock for idle connections.
            self._expect_head()

    def on_message_begin(self) -> None:
        if self._answering():
            self._end_with_the_answer()
            raise RequestRejected
        self._head_began = True
        self._expect_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # uvicorn would add them to the headers of a request whose headers were looked at already, or not yet.
            self._stop(400, "invalid_http", "trailer fields are not accepted: send them as headers")
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._stop(431, "headers_too_large", f"the request has more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse_size()
            raise RequestRejected
        if wrong := _wrong(self.parser.get_http_version(), self.parser.should_upgrade(), self.headers):
            self._stop(400, "invalid_http", wrong)
        super().on_headers_complete()
        self._in_body, self._bare_bytes = True, 0
        if self._leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._stop_clock()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            # Refused before its body was there. Without an end, whoever has no key could hold connections for ever.
            self._start_clock(_LINGER_S)

    def shutdown(self) -> None:
        """From now on an answer's head says that the connection ends with it.

        A connection that is closed as a request comes loses that request. So whoever could not be told, because the
        head was sent already or nothing is under way, may ask once more, and only long silence is closed on.
        """
        if self._leaving:
            return
        self._leaving = True
        self.timeout_keep_alive = _LAST_USE_S
        if self._answering() and not self.cycle.response_started:
            self.cycle.keep_alive = False
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = self.loop.call_later(_LAST_USE_S, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        if not self._deaf and not self.transport.is_closing():
            self._refuse(400, "invalid_http", "this is not a valid HTTP/1.1 request")

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        if self._clock is None:
            self._start_clock(HEAD_S)

    def _start_clock(self, seconds: float) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_slow(self) -> None:
        self._clock = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop(self, status: int, code: str, message: str) -> NoReturn:
        self._refuse(status, code, message)
        raise RequestRejected

    def _refuse_size(self) -> None:
        self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, unless there is an answer already: a second one could be taken for the next request's."""
        if self._in_body and self.cycle.response_started:
            if self._answering():
                self._end_with_the_answer()
            else:
                self.transport.close()
            return
        body = error_envelope(message, "invalid_request_error", code)
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self._in_body:
            self.cycle.disconnected = True  # the application must not write behind this answer
            self.cycle.message_event.set()
        self._hang_up()

    def _hang_up(self) -> None:
        """Closing on what is still being sent would reset the connection, and the answer would be lost with it."""
        self._deaf = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._start_clock(_LAST_S)
        else:
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_with_the_answer(self) -> None:
        self._stop_clock()
        self._deaf = True
        self.cycle.keep_alive = False


def _wrong(version: str, upgrade: bool, headers: list[Header]) -> str:
    """What is wrong with a well-formed head, as a sentence; empty when nothing is."""
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here: use HTTP/1.1"
    names = [name for name, _ in headers]
    for name in _ONLY_ONCE:
        if names.count(name) > 1:
            return f"the header {name.decode()} came more than once: send one"
    if version == "1.1" and b"host" not in names:
        return "the header host is missing"
    if upgrade:
        # The parser takes all that follows for another protocol, so the body would never be read.
        return "other protocols are not spoken here: leave out the header upgrade, and do not use CONNECT"
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (version == "1.0" or codings != [b"chunked"]):
        return "the only transfer-encoding is chunked, and it needs HTTP/1.1"
    return ""
