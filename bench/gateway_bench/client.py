"""Clients that cost next to nothing: connected beforehand, one request at a time, every read noted with its time.

Client, gateway and responder share the machine, so nothing is parsed while an answer arrives.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from dataclasses import dataclass
from typing import Final, cast

_STAMP: Final = re.compile(rb'"content":"(\d{18})"')
_END: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, and as whom. The only place that writes requests."""

    host: str
    port: int
    model: str
    key: str
    tls: ssl.SSLContext | None = None
    journal: bool = False  # ask for the lines that an engine adds for a gateway

    def request(self, events: int, pace_s: float, step: int = 0) -> bytes:
        """A streamed chat completion of so many events, one every `pace_s`, in the same ticks as others of its step."""
        return self.chat([{"role": "user", "content": "Where does the time go?"}], events, pace_s, step)

    def chat(self, messages: list[dict[str, str]], events: int, pace_s: float, step: int = 0) -> bytes:
        """The same with messages of one's own. What the responder needs is at the end: it keeps no large body."""
        fields = {"model": self.model, "stream": True, "messages": messages}
        return self.post(json.dumps({**fields, "max_tokens": events, "user": f"{pace_s} {step}"}).encode())

    def post(self, body: bytes, *fields: str) -> bytes:
        """Head and body of a request."""
        return self.head(f"content-length: {len(body)}", *fields) + body

    def head(self, *fields: str) -> bytes:
        """The head alone; one of these fields says how long the body is."""
        own = ["POST /v1/chat/completions HTTP/1.1", "host: bench", f"authorization: Bearer {self.key}"]
        own += ["content-type: application/json", *(["x-topmast-journal: 1"] if self.journal else [])]
        return "\r\n".join([*own, *fields, "", ""]).encode()


class Connection(asyncio.Protocol):
    """`events` counts as they come. Bytes are kept only where `keep` says so, for `latencies_ns`."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._tail = b""
        self.events = 0
        self.reads = 0
        self.reset()

    def reset(self) -> None:
        """Forget the last answer, before the next request."""
        self.parts: list[tuple[int, bytes]] = []  # time of the read in ns, bytes
        self.status = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._keep:
            self.parts.append((time.monotonic_ns(), data))
        self.status = self.status or data[9:12]
        self.events += data.count(b"data: {")
        self.reads += 1
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END or self.status != b"200":
            self._end()

    def connection_lost(self, _: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def latencies_ns(self) -> list[int]:
        """From each event's write at the responder to the read that brought it here."""
        found = []
        for at_ns, data in self.parts:
            found += [at_ns - int(stamp) for stamp in _STAMP.findall(data)]
        return found

    def first_event_ns(self) -> int:
        """When the first event was read."""
        return next(at_ns for at_ns, data in self.parts if b"data: {" in data)


async def connect(target: Target, *, keep: bool) -> Connection:
    """A connection that is ready before the clock starts."""
    loop = asyncio.get_running_loop()
    where = (target.host, target.port)
    _, connection = await loop.create_connection(lambda: Connection(keep=keep), *where, ssl=target.tls)
    return connection


async def refused(target: Target, body: bytes) -> int:
    """The status of a request on a connection of its own, read after everything is sent."""
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls)
    try:
        writer.write(target.post(body))
        await writer.drain()
        return int((await reader.readline()).split(b" ", 2)[1])
    finally:
        writer.transport.abort()
