"""Server-sent events over one response: nothing is sent before the first event, so that an early failure is a status.

Several events of one engine step travel in one write.
"""

from __future__ import annotations

from starlette.types import Send

from topmast_server.api.errors import ApiError, dump

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx buffers streams unless it is told not to
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """`started` says whether an error can still become an ordinary answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def events(self, payloads: list[bytes]) -> None:
        """One write for all of these."""
        await self._write(b"".join(b"data: %b\n\n" % payload for payload in payloads), more=True)

    async def done(self, payloads: list[bytes]) -> None:
        """The last events, `[DONE]`, and the end of the response."""
        await self._write(b"".join(b"data: %b\n\n" % payload for payload in [*payloads, b"[DONE]"]), more=False)

    async def fail(self, error: ApiError) -> None:
        """A visible end: an error event, and no `[DONE]`."""
        await self._write(b"data: %b\n\n" % dump(error.envelope()), more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
