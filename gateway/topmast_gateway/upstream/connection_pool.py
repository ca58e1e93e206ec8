"""The gateway's connections to engines: kept open between requests, and let go after a while without one.

Every request carries the gateway's own token for its model, where there is one, and no credential of a caller.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from typing import Final

from topmast_access.signing import EngineTokens
from topmast_gateway.routing.model_table import Pod
from topmast_gateway.upstream.engine_response import EngineResponse
from topmast_gateway.upstream.failures import ConnectionLost, ConnectionRefused, Unreachable
from topmast_gateway.upstream.http_client import EngineConnection
from topmast_gateway.upstream.idle_timer import IdleTimer

CONNECT_S: Final = 2.0
_STALE_S: Final = 0.5  # a request that broke its engine would have taken longer
_IDLE_S: Final = 30.0  # below the engine's keep-alive, so that we close first and a reused connection is rarely dead
_DEAD_AFTER_S: Final = 25  # a node that is gone answers nothing, and without this a silent generation would hide it


class ConnectionPool:
    """Idle connections by address, the one used last in the end. How many are open, overload.py decides."""

    def __init__(self, tokens: EngineTokens | None = None, idle_s: float = _IDLE_S) -> None:
        self._tokens = tokens or EngineTokens()
        self._idle_s = idle_s
        self._idle: dict[str, list[tuple[float, EngineConnection]]] = defaultdict(list)
        self._sweeping: asyncio.TimerHandle | None = None

    async def post(
        self, pod: Pod, path: str, body: bytes | bytearray, headers: Mapping[str, str], wait_s: float
    ) -> tuple[EngineConnection, EngineResponse]:
        """Send the request and give its answer, the head read; an UpstreamFailure where there is none to give.

        TimeoutError when it has not come after `wait_s`, also from who reads it then. Whoever gets the connection
        gives it to `release`.
        """
        address = pod.address
        head = _head(address, path, len(body), {**headers, **self._tokens.header(pod.model)})
        connection = kept = self._take(address)
        asked_at = asyncio.get_running_loop().time()
        while True:
            if connection is None:
                connection = await _connect(address)
            try:
                response = connection.send(head, body, wait_s)
                await response.head()
                return connection, response
            except BaseException as error:
                connection.close()
                # A kept one that broke before a byte came was closed by the engine at the same moment: that says
                # nothing of the pod, and the request goes over a new one.
                was_closed = connection is kept and isinstance(error, ConnectionLost) and not connection.heard
                if not was_closed or asyncio.get_running_loop().time() - asked_at > _STALE_S:
                    raise
            connection = None

    def release(self, pod: Pod, connection: EngineConnection) -> None:
        """Nobody reads on: an answer that is not at its end closes its connection."""
        if connection.reusable:
            self._keep(pod.address, connection)
        else:
            connection.close()

    def close(self) -> None:
        """No connection is left but those in use."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connections in self._idle.values():
            for _, connection in connections:
                connection.close()
        self._idle.clear()

    def _take(self, address: str) -> EngineConnection | None:
        connections = self._idle.get(address)
        while connections:
            _, connection = connections.pop()
            if connection.reusable:
                return connection
        return None

    def _keep(self, address: str, connection: EngineConnection) -> None:
        loop = asyncio.get_running_loop()
        self._idle[address].append((loop.time(), connection))
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long, and forget what the engine has closed."""
        loop = asyncio.get_running_loop()
        before_s = loop.time() - self._idle_s
        for address, connections in list(self._idle.items()):
            for since_s, connection in connections:
                if since_s <= before_s:
                    connection.close()
            if young := [
                (since_s, connection)
                for since_s, connection in connections
                if since_s > before_s and connection.reusable
            ]:
                self._idle[address] = young
            else:
                del self._idle[address]
        oldest_s = min((connections[0][0] for connections in self._idle.values()), default=None)
        self._sweeping = None if oldest_s is None else loop.call_at(oldest_s + self._idle_s, self._sweep)


def _head(address: str, path: str, length: int, headers: Mapping[str, str]) -> bytes:
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if fields.count("\n") != len(headers):
        raise ValueError("a header holds a line break")
    return f"POST {path} HTTP/1.1\r\nhost: {address}\r\n{fields}content-length: {length}\r\n\r\n".encode("latin-1")


async def _connect(address: str) -> EngineConnection:
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    sock = _socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        await _within(CONNECT_S, loop.sock_connect(sock, (host.strip("[]"), int(port))))
        _, connection = await loop.create_connection(EngineConnection, sock=sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, TimeoutError):
            raise Unreachable(f"{address} did not answer within {CONNECT_S:g} s") from error
        if isinstance(error, OSError):
            raise ConnectionRefused(f"{address}: {error.strerror or error}") from error
        raise
    return connection


async def _within(limit_s: float, waiting: Awaitable[None]) -> None:
    """TimeoutError where it takes longer, a pause of this process not counted."""
    async with asyncio.timeout(None) as clock:
        timer = IdleTimer(lambda: clock.reschedule(asyncio.get_running_loop().time()))
        timer.start(limit_s)
        try:
            await waiting
        finally:
            timer.stop()


def _socket(family: socket.AddressFamily) -> socket.socket:
    """Its keep-alive probes find a lost node."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_S * 1000)
    return sock
