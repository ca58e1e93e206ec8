"""What carrying bytes costs at the least: a uvloop program that reads nothing of what it passes on, either way.

It is to the gateway what a wall is to a house: without it nobody could say how much of an event's cost is sockets and
the event loop. Its sockets are set as the gateway's: TCP_NODELAY, which uvloop sets by itself, and no more.

    python -m gateway_bench.raw_relay 127.78.255.2 8000 127.78.255.1 8000      listen where, and pass on to whom
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, cast

import uvloop

_BACKLOG: Final = 2048


class _Side(asyncio.Protocol):
    """One of the two connections. It is read only while the other one takes what it brings."""

    transport: asyncio.Transport
    other: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.other.write(data)  # type: ignore[union-attr]  # the engine says nothing before it is asked

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class _Client(_Side):
    """A client's connection; what it says before there is one to the engine waits here."""

    def __init__(self, host: str, port: int) -> None:
        self._engine = (host, port)
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._joining = asyncio.get_running_loop().create_task(self._join())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
            self.transport.pause_reading()  # sooner is no use: uvloop reads when `connection_made` has ended
        else:
            self.other.write(data)

    async def _join(self) -> None:
        try:
            _, engine = await asyncio.get_running_loop().create_connection(_Side, *self._engine)
        except OSError:
            self.transport.abort()
            return
        engine.other, self.other = self.transport, engine.transport
        if self.transport.is_closing():
            self.other.close()
            return
        self.other.writelines(self._early)
        self.transport.resume_reading()


async def _serve(host: str, port: int, client: Callable[[], _Client]) -> None:
    server = await asyncio.get_running_loop().create_server(client, host, port, backlog=_BACKLOG)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    own_host, own_port, engine_host, engine_port = sys.argv[1:]
    uvloop.run(_serve(own_host, int(own_port), lambda: _Client(engine_host, int(engine_port))))
