"""The pipe to the engine process, without ever blocking the event loop.

Two threads: one waits for frames, one writes them, because a frozen engine stops reading and a full pipe would
block the probes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

from topmast_server.messages import Message, pack, unpack


class Link:
    """`on_message` and `on_closed` are called in the event loop, in order."""

    def __init__(
        self, connection: Connection, on_message: Callable[[Message], None], on_closed: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._on_message = on_message
        self._on_closed = on_closed
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        # Daemons: the writer may be stuck in a full pipe when the program has to end.
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"engine-pipe{target.__name__}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Hand a message over; it is written as soon as the engine reads."""
        self._outbox.put(pack(message))

    def _read(self) -> None:
        try:
            while True:
                message = unpack(self._connection.recv_bytes())
                self._loop.call_soon_threadsafe(self._on_message, message)
        except (EOFError, OSError):
            pass
        finally:
            self._outbox.put(None)
            with contextlib.suppress(RuntimeError):  # the loop is closed already: the program is ending
                self._loop.call_soon_threadsafe(self._on_closed)

    def _write(self) -> None:
        try:
            while (frame := self._outbox.get()) is not None:
                self._connection.send_bytes(frame)
        except OSError:
            pass  # the reader sees the end too, and reports it
