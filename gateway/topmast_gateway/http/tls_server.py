"""Takes connections on a port with TLS, with bounds on their handshakes: in number, by address, and in time.

A handshake holds fifty kilobytes before anybody has said who they are, and asyncio's own server reports a connection
only when its handshake is over. So connections are taken here, and then given to the loop to be encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

from topmast_gateway.http.connection_limits import ConnectionLimits

HANDSHAKE_S = 10.0
_PAUSE_S = 0.1  # when the process has no file descriptor left


class TlsServer:
    """What asyncio.Server is to a listening socket, as far as a server is ended by it."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        limits: ConnectionLimits,
        backlog: int,
    ) -> None:
        sock.listen(backlog)
        self._sock = sock
        self._context = context
        self._make = make
        self._limits = limits
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Take no more connections; those that shake hands continue."""
        self._accepting.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._sock)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
                continue
            address = str(peer[0])
            if not self._limits.enter(address):
                sock.close()
                continue
            task = loop.create_task(self._shake_hands(sock, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, sock: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(self._make, sock, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S)
        except OSError:  # also what ssl and the timeout raise: whoever does not shake hands gets no answer
            sock.close()
        finally:
            self._limits.leave(address)
