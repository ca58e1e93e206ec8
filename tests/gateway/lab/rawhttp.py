"""A server around the gateway's own listener whose application remembers what it got; and raw bytes towards it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from topmast_gateway.http.listener import Server, bind
from topmast_gateway.messages.request import ClientDisconnected, Request
from topmast_gateway.messages.response import ResponseWriter


@dataclass
class Seen:
    """What the application got: one entry per request that reached it."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)  # whether the client was seen to go
    refuse: bool = False  # answer 401 without a look at the body, as for a wrong key
    hold: asyncio.Event | None = None  # wait for it after the first piece of the answer
    server: Server = field(init=False)

    async def __call__(self, request: Request, writer: ResponseWriter) -> None:
        self.requests.append(request)
        if self.refuse:
            writer.whole(401, b"no")
            return
        body = b""
        try:
            while piece := await request.incoming.read():
                body += piece
        except ClientDisconnected:
            self.left.append(True)
            return
        self.bodies.append(body)
        if self.hold:
            gone = asyncio.Event()
            request.incoming.on_disconnect(gone.set)
            writer.start(200, [(b"content-length", b"2")])
            writer.chunk(b"o")
            waits = [asyncio.create_task(event.wait()) for event in (gone, self.hold)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self.left.append(gone.is_set())
            for wait in waits:
                wait.cancel()
            writer.end(b"k")
        else:
            writer.whole(200, b"ok")

    async def exchange(self, *pieces: bytes, timeout_s: float = 10.0, half_close: bool = False) -> bytes:
        """Send the pieces, then read until the server closes or is silent for three moments: in one it may have been
        this process, and the server in it, that stood still.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if half_close:
                writer.write_eof()
        answer, silent = b"", 0
        with suppress(ConnectionError):
            while silent < 3:
                try:
                    data = await asyncio.wait_for(reader.read(65_536), 0.05 if answer else timeout_s / 3)
                except TimeoutError:
                    silent += 1
                    continue
                if not data:
                    break
                answer, silent = answer + data, 0
        writer.close()
        return answer

    async def seconds_until_closed(self, *pieces: bytes, drip: bytes = b"", timeout_s: float = 9.0) -> float:
        """How long the server keeps a connection that sends `drip` again and again; fails after `timeout_s`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(pieces))
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def dripping() -> None:
            with suppress(ConnectionError):
                while drip:
                    writer.write(drip)
                    await writer.drain()
                    await asyncio.sleep(0.02)

        task = asyncio.create_task(dripping())
        try:
            with suppress(ConnectionError):
                async with asyncio.timeout(timeout_s):
                    while await reader.read(65_536):
                        pass
        finally:
            task.cancel()
            writer.close()
        return loop.time() - start


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Seen]:
    """The listener on a free port."""
    seen = Seen()
    sock: socket.socket = bind("127.0.0.1", 0)
    seen.port = sock.getsockname()[1]
    seen.server = Server(seen, **options)
    await seen.server.listen(sock)
    try:
        yield seen
    finally:
        await seen.server.close(0)
