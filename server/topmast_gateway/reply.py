"""One answer on its way to the client: every one carries the request id, and its start is known.

Whether something was sent yet decides what may still be done about a failure, so it is recorded here and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from topmast_gateway.asgi import Header, Send
from topmast_gateway.errors import Refusal


class Reply:
    """Sends at most one response. `status` stays None until its first byte is out."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.started_at = 0.0  # of the monotonic clock

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Status line and headers."""
        self.status, self.started_at = status, time.monotonic()
        stamped = [*headers, (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": stamped})

    async def chunk(self, body: bytes) -> None:
        """A piece of the body, sent at once; waits only while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        """The last piece of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def whole(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A complete response."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.end(body)

    async def json(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> None:
        """A complete response of JSON."""
        await self.whole(status, body, [(b"content-type", b"application/json"), *headers])

    async def refuse(self, refusal: Refusal) -> None:
        """The gateway's own error, complete in what it says; `end` closes it."""
        body = refusal.body()
        length = str(len(body)).encode()
        await self.start(
            refusal.status,
            [(b"content-type", b"application/json"), (b"content-length", length), *refusal.headers],
        )
        await self.chunk(body)
