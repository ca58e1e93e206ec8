"""An engine's answer as it comes: its head, then its body piece by piece, to who asks or to who relays it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from topmast_gateway.messages.request import Header
from topmast_gateway.upstream.failures import BadAnswer, ConnectionLost
from topmast_gateway.upstream.idle_timer import IdleTimer

_MOST_AHEAD_BYTES: Final = 256 * 1024  # read and not yet passed on; then the engine has to wait


class Carrier(Protocol):
    """The connection, as far as its answer needs it."""

    transport: asyncio.Transport
    taker: Callable[[bytes], None] | None  # gets the answer's body piece by piece as it comes


class EngineResponse:
    """An answer, from the first byte of its head on. Names of headers are in lower case.

    What came before a break is still given; then it is ConnectionLost, and TimeoutError when `idle` has passed.
    """

    def __init__(self, connection: Carrier) -> None:
        self.status = 0  # until the head is complete
        self.headers: list[Header] = []
        self._connection, self._transport = connection, connection.transport
        self.pieces: list[bytes] = []  # of the body, that were not taken yet
        self._ahead_bytes = 0
        self._complete = self._paused = False
        self._trouble = ""
        self._is_silent = False  # for too long
        self.idle = IdleTimer(self._silent)
        self._waiting: asyncio.Future[None] | None = None
        self._failure: Exception | None = None  # of who takes the pieces as they come

    def header(self, name: bytes) -> bytes | None:
        """The first one of that name."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    async def head(self) -> None:
        """Return when status and headers are known."""
        while not self.status:
            await self._wait_for_data()

    async def chunk(self) -> bytes:
        """What has come since the last one; empty at the body's end."""
        while not self.pieces:
            if self._complete:
                return b""
            await self._wait_for_data()
        found = self._take_pieces()
        self.resume()
        return found

    async def relay(self, take: Callable[[bytes], None]) -> None:
        """Hand the rest of the body to `take`, each piece when it is read; what `take` raises ends it."""
        self._connection.taker = take
        self._ahead_bytes = 0
        self.resume()  # so much may have come before anybody asked that the reading was stopped
        try:
            while True:
                self.deliver(take)
                if self._failure is not None:
                    raise self._failure
                if self._complete:
                    return
                await self._wait_for_data()
        finally:
            self._connection.taker = None

    async def read(self, largest_bytes: int) -> bytes:
        """The whole body, where no piece was taken before; BadAnswer where it is larger than that."""
        pieces, size = [], 0
        while piece := await self.chunk():
            pieces.append(piece)
            size += len(piece)
            if size > largest_bytes:
                raise BadAnswer(f"the engine's answer is larger than {largest_bytes} bytes")
        return b"".join(pieces)

    def pause(self) -> None:
        """The engine has to wait."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The engine may continue."""
        if self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
        self._paused = False

    def came(self, size: int) -> None:
        """The wire has added so many bytes, for who will ask. It reads no faster than they are passed on."""
        self._ahead_bytes += size
        if self._ahead_bytes > _MOST_AHEAD_BYTES and not self._complete:
            self.pause()
        self._wake()

    def end(self, trouble: str = "") -> None:
        """The wire has all of it, or all that will ever come."""
        self._complete, self._trouble = not trouble, trouble
        self.idle.stop()
        self.resume()  # who reads no further must not leave a connection that is deaf
        self._wake()

    def deliver(self, take: Callable[[bytes], None]) -> None:
        """Hand what was collected to who relays the body."""
        if self.pieces:
            try:
                take(self._take_pieces())
            except Exception as error:
                self.not_taken(error)

    def not_taken(self, error: Exception) -> None:
        """Who relays the body wants no more of it."""
        self._failure, self._connection.taker = error, None
        self._wake()

    def _take_pieces(self) -> bytes:
        found = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self._ahead_bytes = 0
        return found

    def _silent(self) -> None:
        self._is_silent = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _wait_for_data(self) -> None:
        if self._trouble:
            raise ConnectionLost(self._trouble)
        if not self._is_silent:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        if self._is_silent:
            raise TimeoutError
