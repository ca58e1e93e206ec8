"""One answer on its way to the client: every one carries the request id, and its start is known.

Whether something was sent yet decides what may still be done about a failure, so it is recorded here and nowhere else.
Writing never waits; who has much to say waits until it is `drained`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from topmast_gateway.messages.errors import ApiError, sse_error
from topmast_gateway.messages.request import Header

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


class Outgoing(Protocol):
    """The connection's side of an answer. What is written to a client that has gone is dropped."""

    def start(self, status: int, headers: list[Header]) -> None:
        """The head; it is sent with the next piece."""

    def write(self, data: bytes) -> None:
        """A piece of the body."""

    def end(self, data: bytes = b"") -> None:
        """The last piece."""

    def on_full(self, call: Callable[[], None] | None) -> None:
        """Call this whenever the client reads more slowly than is written, at once where it does. None: no more."""

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call this once when the client has read enough, or is gone."""

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""


class ResponseWriter:
    """Sends at most one response. `status` stays None until it was started."""

    def __init__(self, out: Outgoing, request_id: str) -> None:
        self.out = out
        self.request_id = request_id
        self.status: int | None = None
        self.answered_at: float | None = None  # monotonic: when the first byte of the answer itself went out
        self.sent_at = time.monotonic()  # when the client last got anything, or asked
        self._ended = False
        self.broken = False  # it was started, and its last event is an error
        self.pod = ""  # the last one that worked on it
        self.revision = ""  # of that pod
        self.tries = 0
        self.shows_route = False  # whether its caller may see, and wants to see, which pod it was and why
        self.route: Header | None = None  # which it was, where it is shown
        self.extra_headers: list[Header] = []  # on whatever the answer will be

    def on_full(self, call: Callable[[], None] | None) -> None:
        """Call this whenever the client reads more slowly than is written; None takes it back."""
        self.out.on_full(call)

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call this once when the client has read enough, or is gone."""
        self.out.on_drained(call)

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""
        await self.out.drained()

    def idle_s(self) -> float:
        """Seconds since the client last got anything, or asked."""
        return time.monotonic() - self.sent_at

    def start(self, status: int, headers: Iterable[Header]) -> None:
        """Status line and headers."""
        self.status = status
        route = [self.route] if self.route else []
        self.out.start(status, [*headers, *self.extra_headers, *route, (b"x-request-id", self.request_id.encode())])

    def stream(self, headers: Iterable[Header], events: bytes) -> None:
        """Whole events of a stream; begins it with `headers` where that was not done yet."""
        self.sent_at = now = time.monotonic()
        if self.answered_at is None:
            self.answered_at = now
            if self.status is None:
                self.start(200, headers)
        self.out.write(events)

    def comment(self, text: str) -> None:
        """A word to who waits for a stream: clients skip it, and proxies see that the connection lives."""
        if self.status is None:
            self.start(200, _EVENT_STREAM)
        self.chunk(f": {text}\n\n".encode())

    def chunk(self, body: bytes) -> None:
        """A piece of the body."""
        self.sent_at = time.monotonic()
        self.out.write(body)

    def end(self, body: bytes = b"") -> None:
        """The last piece of the body; a second end is none."""
        if not self._ended:
            self._ended = True
            self.out.end(body)

    def abort(self, error: bytes) -> None:
        """The last event of a stream that was started and is not complete."""
        self.broken = True
        self.end(error)

    def whole(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A complete response."""
        self.answered_at = time.monotonic()
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self.end(body)

    def json(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A complete response of JSON."""
        self.whole(status, body, [(b"content-type", b"application/json"), *headers])

    def refuse(self, refusal: ApiError) -> None:
        """The gateway's own error, complete in what it says; `end` closes it. In a stream it is the last event."""
        if self.status is not None:
            self.abort(sse_error(str(refusal), refusal.code, refusal.kind))
            return
        body = refusal.body()
        framing = (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))
        self.start(refusal.status, [*framing, *refusal.headers])
        self.chunk(body)
