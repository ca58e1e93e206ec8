"""The server around the connections: how it listens, how it ends, and what of uvicorn is left out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn

from topmast_gateway.http.connection import Connection
from topmast_gateway.http.connection_limits import ConnectionLimits
from topmast_gateway.http.tls_server import TlsServer

_KEEP_ALIVE_S = 75
_BACKLOG = 2048
_MOST_CONNECTIONS, _MOST_HANDSHAKES = 10_000, 1000


class Listener(uvicorn.Server):
    """A server whose signals are handled elsewhere: a signal starts a drain, it closes nothing by itself."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls
        self._leaving = False
        self._limits = ConnectionLimits(_MOST_CONNECTIONS)
        self._handshakes = ConnectionLimits(_MOST_HANDSHAKES)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn's own would let any number of TLS handshakes take a minute, before any of our clocks runs."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = [await self._listen(loop, sock) for sock in sockets or ()]
        self.started = True

    def leave(self) -> None:
        """Tell every client, with its next answer, to use another connection; new ones are still taken."""
        self._leaving = True
        for connection in self.server_state.connections:
            connection.shutdown()

    async def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Any:
        if self._tls is None:
            return await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
        return TlsServer(sock, self._tls, self._connection, self._handshakes, _BACKLOG)

    def _connection(self) -> Connection:
        connection = Connection(self.config, self.server_state, self.lifespan.state)
        connection.limits = self._limits
        if self._leaving:
            connection.shutdown()
        return connection

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listener(app: Any, *, drain_timeout_s: float, tls: ssl.SSLContext | None = None) -> Listener:
    """A server for `app`, to be run by `serve(sockets=[...])`."""
    return Listener(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, int(drain_timeout_s)),
        ),
        tls,
    )


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
