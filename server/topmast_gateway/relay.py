"""Passes an event stream on, unbuffered and never torn: the client only ever sees whole events.

After the first byte a failure cannot be retried here, so it becomes an error event that every client notices.
"""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from topmast_gateway.errors import sse_error
from topmast_gateway.headers import towards_client
from topmast_gateway.reply import Reply
from topmast_gateway.upstream import Lost

_LONGEST_EVENT_BYTES = 4 * 1024 * 1024
_LAST_WORD_S = 5.0  # for a client that does not read


class Torn(Exception):
    """The stream ended early; the client was told by an error event."""


async def relay(response: aiohttp.ClientResponse, reply: Reply, progress_s: float) -> None:
    """Send the stream to the client. Lost before its first byte; Torn after it."""
    loop = asyncio.get_running_loop()
    events = Events()
    try:
        async with asyncio.timeout(progress_s) as clock:
            async for piece in response.content.iter_any():
                if complete := events.feed(piece):
                    if reply.status is None:
                        await reply.start(response.status, towards_client(response.raw_headers))
                    await reply.chunk(complete)
                clock.reschedule(loop.time() + progress_s)
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError):
            what = f"nothing came or went for {progress_s:.0f} s"
        if reply.status is None:
            if isinstance(error, TimeoutError):
                raise
            raise Lost(what) from error
        message = "the connection to the model broke and this answer is not complete; ask again"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await reply.end(sse_error(message, "stream_lost"))
        raise Torn(what) from error
    if reply.status is None:
        await reply.start(response.status, towards_client(response.raw_headers))
    await reply.end(events.rest)


class Events:
    """Cuts a byte stream after its last complete event. Engines write whole events, so this rarely waits."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, piece: bytes) -> bytes:
        """Everything up to the last blank line; what follows it stays in `rest`."""
        data = self.rest + piece if self.rest else piece
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
        if end < 4:  # neither was found: -1 + 2 and -1 + 4 are both smaller
            end = len(data) if len(data) > _LONGEST_EVENT_BYTES else 0
        complete, self.rest = data[:end], data[end:]
        return complete
