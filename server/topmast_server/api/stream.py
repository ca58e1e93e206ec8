"""Server-sent events over one response: nothing is sent before the first event, so that an early failure is a status.

Several events of one engine step travel in one write. A journal is for the gateway: comment lines that tell the tokens
behind what was written, so that another server can go on where this one stops. docs/contracts.md has its lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Send

from topmast_server.api.errors import ApiError, dump

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx buffers streams unless it is told not to
    (b"x-accel-buffering", b"no"),
]
_JOURNAL = (b"x-topmast-journal", b"1")


class EventStream:
    """`started` says whether an error can still become an ordinary answer; `quiet` is True until the next write."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.journal = False
        self.quiet = True

    async def keep_journal(self, prompt_tokens: int, created: int) -> None:
        """Begin the response with what is known before the first token."""
        self.journal = True
        await self._write(b": prompt %d %d\n\n" % (prompt_tokens, created), more=True)

    async def alive(self) -> None:
        """A sign of life where there is nothing else to say."""
        await self._write(b": alive\n\n", more=True)

    async def events(self, payloads: list[bytes], token_ids: Sequence[int] = (), cached: int | None = None) -> None:
        """One write for all of these. The journal's line comes last: what precedes it counts only with it."""
        lines = _data(payloads)
        if self.journal:
            lines += _told(cached) + b": + %b\n\n" % _spelt(token_ids)
        await self._write(lines, more=True)

    async def done(self, payloads: list[bytes], token_ids: Sequence[int] = (), cached: int | None = None) -> None:
        """The last events, `[DONE]`, and the end of the response."""
        lines = _data(payloads)
        if self.journal:
            lines += _told(cached) + b": end %b\n\n" % _spelt(token_ids)
        await self._write(lines + b"data: [DONE]\n\n", more=False)

    async def fail(self, error: ApiError) -> None:
        """A visible end: an error event, and no `[DONE]`."""
        line = b": error %d %d\n\n" % (error.status, error.retry_after_s or 0) if self.journal else b""
        await self._write(line + b"data: %b\n\n" % dump(error.envelope()), more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        self.quiet = False
        if not self.started:
            self.started = True
            headers = [*_HEADERS, _JOURNAL] if self.journal else _HEADERS
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _data(payloads: list[bytes]) -> bytes:
    return b"".join(b"data: %b\n\n" % payload for payload in payloads)


def _told(cached: int | None) -> bytes:
    return b"" if cached is None else b": cached %d\n\n" % cached


def _spelt(token_ids: Sequence[int]) -> bytes:
    return b" ".join(b"%d" % token_id for token_id in token_ids)
