"""An engine that costs next to nothing: prebuilt events, written in steps as a real engine's are.

The first event comes at once. After it all streams of one pace get the next one in the same tick, as one step of an
engine makes a token for each of its sequences; paces that differ in their names have ticks of their own. Every event
carries the time at which it was written. The journal is kept for whoever asks for it.

Of a large body only the end is kept and looked at: reading all of it must not stop everybody's streams here. One that
ends as those of client.py do is accepted and counted, and any other is refused, as an abuser's is.

    python -m gateway_bench.responder 127.78.0.1
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Final, cast

import uvloop

PORT: Final = 8000
# The text is the time of the write in nanoseconds of CLOCK_MONOTONIC, 18 digits.
_EVENT: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"%018d"},"finish_reason":null}]}\n\n'
)
_FINISH: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"%btransfer-encoding: chunked\r\n\r\n"
)
_LARGE_BYTES: Final = 64 * 1024
_END_BYTES: Final = 512
_ASKED: Final = re.compile(rb'"max_tokens": ?(\d+), ?"user": ?"([^"]+)"')
COUNTED: Final = b"GET /large"  # is answered with how many large bodies were accepted, and their bytes
_REFUSED: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"
_WHOLE: Final = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"


class Ticker:
    """Steps of one pace, for as long as it has streams."""

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._streams: dict[Talk, None] = {}
        self._running: asyncio.Task[None] | None = None

    def add(self, stream: Talk) -> None:
        self._streams[stream] = None
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    def drop(self, stream: Talk) -> None:
        self._streams.pop(stream, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while self._streams:
            due_s = max(due_s + self._pace_s, loop.time())
            await asyncio.sleep(due_s - loop.time())
            for stream in list(self._streams):
                if not stream.write_event():
                    self.drop(stream)
        self._running = None


class Talk(asyncio.Protocol):
    """One connection, kept alive between requests."""

    tickers: dict[str, Ticker] = {}  # noqa: RUF012
    large, large_bytes = 0, 0  # of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""
        self._coming = self._length = 0  # bytes of a large body that are still to come, and of all of it
        self._end = b""  # of it
        self._left = 0
        self._journal = False

    def connection_lost(self, _: Exception | None) -> None:
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if self._coming:
            self._large(data)
            return
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.lower().split(b"\r\n")
        lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        length = lengths[0] if lengths else 0
        self._journal = b"x-topmast-journal: 1" in lines
        if length > _LARGE_BYTES:
            self._received, self._end, self._coming, self._length = b"", b"", length, length
            self._large(rest)
            return
        if len(rest) < length:
            return
        self._received = rest[length:]
        if head.startswith(b"POST"):
            fields = json.loads(rest[:length])
            self._begin(int(fields["max_tokens"]), fields["user"])
        else:
            text = b"%d %d" % (Talk.large, Talk.large_bytes) if head.startswith(COUNTED) else b""
            self._transport.write(_WHOLE % (len(text), text))

    def _large(self, data: bytes) -> None:
        self._coming -= len(data)
        self._end = (self._end + data[-_END_BYTES:])[-_END_BYTES:]
        if self._coming:
            return
        if asked := _ASKED.search(self._end):
            Talk.large += 1
            Talk.large_bytes += self._length
            self._begin(int(asked[1]), asked[2].decode())
        else:
            self._transport.write(_REFUSED)

    def _begin(self, events: int, pace: str) -> None:
        self._left = events
        self._transport.write(_HEAD % (b"x-topmast-journal: 1\r\n" if self._journal else b""))
        if self._journal:
            self._chunk(b": prompt 16 1700000000\n\n: cached 0\n\n")
        if self.write_event():  # at once, so that a first event's latency has no wait for a tick in it
            self.tickers.setdefault(pace, Ticker(float(pace.partition(" ")[0]))).add(self)

    def write_event(self) -> bool:
        """The next event; False when that was the last one."""
        if self._left == 0:
            return False
        self._left -= 1
        committed = b": + 1234\n\n" if self._journal else b""
        self._chunk(_EVENT % time.monotonic_ns() + committed)
        if self._left:
            return True
        self._chunk(_FINISH + (b": end\n\n" if self._journal else b"") + b"data: [DONE]\n\n")
        self._transport.write(b"0\r\n\r\n")
        return False

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _serve(address: str) -> None:
    server = await asyncio.get_running_loop().create_server(Talk, address, PORT, backlog=2048)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
