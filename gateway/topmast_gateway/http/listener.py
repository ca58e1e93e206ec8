"""The server around the connections: how it listens, what it hands on, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from topmast_gateway.http.connection import Connection
from topmast_gateway.http.connection_limits import ConnectionLimits
from topmast_gateway.http.exchange import Exchange
from topmast_gateway.http.tls_server import TlsServer
from topmast_gateway.messages.headers import request_id
from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter

log = logging.getLogger(__name__)

Handler = Callable[[Request, ResponseWriter], Awaitable[None]]

_BACKLOG: Final = 2048
_MOST_CONNECTIONS: Final = 10_000
_MOST_HANDSHAKES: Final = 1000


class _Listening(Protocol):
    """asyncio.Server and TlsServer, as far as they are ended here."""

    def close(self) -> None: ...


class Server:
    """Hands each request to `handler`, in a task of its own that ends the answer."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._leaving = False
        self._limits = ConnectionLimits(_MOST_CONNECTIONS)
        self._handshakes = ConnectionLimits(_MOST_HANDSHAKES)
        self._listening: list[_Listening] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._something_ended = asyncio.Event()
        self.connections: set[Connection] = set()

    async def listen(self, sock: socket.socket) -> None:
        """Take connections from now on."""
        if self._tls is not None:
            self._listening.append(TlsServer(sock, self._tls, self._connection, self._handshakes, _BACKLOG))
        else:
            loop = asyncio.get_running_loop()
            self._listening.append(await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG))

    def leave(self) -> None:
        """Ask every client, with its next answer, to use another connection; new ones are still taken."""
        self._leaving = True
        for connection in self.connections:
            connection.leave()

    async def close(self, drain_s: float) -> None:
        """Take no more connections, wait for what is open, and after this time end it."""
        for listening in self._listening:
            listening.close()
        self.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self.connections or self._tasks:
                    self._something_ended.clear()
                    await self._something_ended.wait()
        if self.connections:
            log.info("%d connections did not end within %g s", len(self.connections), drain_s)
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connection(self) -> Connection:
        return Connection(self._requested, self._entered, self._closed)

    def _entered(self, connection: Connection, peer: str) -> bool:
        if not self._limits.enter(peer):
            return False
        self.connections.add(connection)
        if self._leaving:
            connection.leave()
        return True

    def _closed(self, connection: Connection, peer: str) -> None:
        self._limits.leave(peer)
        self.connections.discard(connection)
        self._something_ended.set()

    def _requested(self, request: Request, exchange: Exchange) -> None:
        writer = ResponseWriter(exchange, request_id(request.headers))
        self._tasks.add(asyncio.get_running_loop().create_task(self._answer(request, writer, exchange)))

    async def _answer(self, request: Request, writer: ResponseWriter, exchange: Exchange) -> None:
        try:
            await self._handler(request, writer)
        except Exception:
            log.exception("%s: a request could not be answered", writer.request_id)
        finally:
            if not exchange.complete:
                exchange.break_off()
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)
            self._something_ended.set()


def bind(host: str, port: int) -> socket.socket:
    """A listening address, bound before anything else starts so that a taken port is the first thing said.

    `::` is every address, of IPv4 and IPv6; where the kernel has no IPv6 it is every address of IPv4.
    """
    dual = host == "::" and socket.has_dualstack_ipv6()
    where = "0.0.0.0" if host == "::" and not dual else host
    sock = socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((where, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
