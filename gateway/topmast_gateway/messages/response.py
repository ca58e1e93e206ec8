"""One answer on its way to the client: every one carries the request id, and its start is known.

Whether something was sent yet decides what may still be done about a failure, so it is recorded here and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from topmast_gateway.messages.asgi import Header, Send
from topmast_gateway.messages.errors import ApiError, sse_error

_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """A complete answer of an engine."""

    status: int
    headers: list[Header]
    body: bytes


class ResponseWriter:
    """Sends at most one response. `status` stays None until its first byte is out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.answered_at: float | None = None  # monotonic: when the first byte of the answer itself went out
        self._sent_at = time.monotonic()
        self._ended = False
        self.broken = False  # it was started, and its last event is an error
        self.pod = ""  # the last one that worked on it
        self.tries = 0
        self.shows_route = False  # whether its caller may see, and wants to see, which pod it was and why
        self.extra_headers: tuple[Header, ...] = ()  # on whatever the answer will be

    def idle_s(self) -> float:
        """Seconds since the client last got anything, or asked."""
        return time.monotonic() - self._sent_at

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Status line and headers."""
        self.status = status
        stamped = [*headers, *self.extra_headers, (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": stamped})

    async def stream(self, headers: Iterable[Header], events: bytes) -> None:
        """Whole events of a stream, sent at once; begins it with `headers` where that was not done yet."""
        if self.answered_at is None:
            self.answered_at = time.monotonic()
            if self.status is None:
                await self.start(200, headers)
        if events:
            await self.chunk(events)

    async def comment(self, text: str) -> None:
        """A word to who waits for a stream: clients skip it, and proxies see that the connection lives."""
        if self.status is None:
            await self.start(200, _EVENT_STREAM)
        await self.chunk(f": {text}\n\n".encode())

    async def chunk(self, body: bytes) -> None:
        """A piece of the body, sent at once; waits only while the client reads too slowly."""
        self._sent_at = time.monotonic()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        """The last piece of the body; a second end is none."""
        if not self._ended:
            self._ended = True
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def abort(self, error: bytes) -> None:
        """The last event of a stream that was started and is not complete."""
        self.broken = True
        await self.end(error)

    async def whole(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A complete response."""
        self.answered_at = time.monotonic()
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.end(body)

    async def json(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A complete response of JSON."""
        await self.whole(status, body, [(b"content-type", b"application/json"), *headers])

    async def refuse(self, refusal: ApiError) -> None:
        """The gateway's own error, complete in what it says; `end` closes it. In a stream it is the last event."""
        if self.status is not None:
            await self.abort(sse_error(str(refusal), refusal.code, refusal.kind))
            return
        body = refusal.body()
        length = str(len(body)).encode()
        await self.start(
            refusal.status,
            [(b"content-type", b"application/json"), (b"content-length", length), *refusal.headers],
        )
        await self.chunk(body)
