"""Whether a client reads as fast as is written to it, and word of that for who writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class FlowControl:
    """Of one connection, whose transport says when too much waits for the client."""

    __slots__ = ("_drained", "_full", "_is_full")

    def __init__(self) -> None:
        self._is_full = False
        self._full: Callable[[], None] | None = None
        self._drained: list[Callable[[], None]] = []

    def fill(self) -> None:
        """The client reads more slowly than is written."""
        self._is_full = True
        if self._full is not None:
            self._full()

    def drain(self) -> None:
        """It has read enough, or is gone."""
        self._is_full = False
        calls, self._drained = self._drained, []
        for call in calls:
            call()

    def on_full(self, call: Callable[[], None] | None) -> None:
        """Call this whenever the client reads more slowly than is written, at once where it does. None: no more."""
        self._full = call
        if call is not None and self._is_full:
            call()

    def on_drained(self, call: Callable[[], None]) -> None:
        """Call this once when the client has read enough, or is gone."""
        if self._is_full:
            self._drained.append(call)
        else:
            call()

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""
        if self._is_full:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(lambda: None if done.done() else done.set_result(None))
            await done
