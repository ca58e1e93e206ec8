"""When a connection has to be done with what it does now. Moving it costs no timer: most are never reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `passed` when it passes; then, as after `clear`, there is none."""

    __slots__ = ("_at", "_passed", "_timer", "_timer_at")

    def __init__(self, passed: Callable[[], None]) -> None:
        self._passed = passed
        self._at: float | None = None  # loop time
        self._timer: asyncio.TimerHandle | None = None  # that looks at it, at the latest then
        self._timer_at = 0.0

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return self._at is not None

    def set(self, seconds: float) -> None:
        """So long from now."""
        loop = asyncio.get_running_loop()
        self._at = at = loop.time() + seconds
        if self._timer is None or self._timer_at > at:
            self.close()
            self._timer, self._timer_at = loop.call_at(at, self._look), at

    def clear(self) -> None:
        """No longer."""
        self._at = None

    def close(self) -> None:
        """No timer is left that knows of the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at is None:
            return
        loop = asyncio.get_running_loop()
        if self._at > loop.time():
            self._timer, self._timer_at = loop.call_at(self._at, self._look), self._at
        else:
            self._at = None
            self._passed()
