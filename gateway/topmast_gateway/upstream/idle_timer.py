"""Notices that nothing has come for too long, at the cost of one timer per stream and not one per event.

A pause of this process itself is nobody's silence: while it stands still it can read nothing, and when it resumes the
event loop looks at timers before it looks at sockets. Such time does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_S = 1.0
_LATE_S = 0.1  # a look that comes later than this shows that the process stood still
_READ_S = 0.25  # at least, after that: to read what has come meanwhile


class IdleTimer:
    """Calls `passed` once when `limit_s` have passed since `start` or the last `reset`; `stop` ends it.

    `limit_s` may be changed at any time; it is looked at once a second.
    """

    __slots__ = ("_idle_s", "_loop", "_passed", "_reset_at", "_timer", "limit_s")

    def __init__(self, passed: Callable[[], None]) -> None:
        self.limit_s = 0.0
        self._passed = passed
        self._idle_s: Callable[[], float] | None = None
        self._loop = asyncio.get_running_loop()
        self._reset_at = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None

    def start(self, limit_s: float) -> None:
        """From now on."""
        self.limit_s = limit_s
        self._reset_at = now = self._loop.time()
        self._look_at(now + min(limit_s, _LOOK_S))

    def watch(self, limit_s: float, idle_s: Callable[[], float]) -> None:
        """From now on by another limit. `idle_s` tells how long ago something came: a call less for every event."""
        self._idle_s, self._reset_at = idle_s, self._loop.time()
        if limit_s < min(self.limit_s, _LOOK_S):
            self.start(limit_s)
        self.limit_s = limit_s

    def reset(self) -> None:
        """Something came."""
        self._reset_at = self._loop.time()

    def stop(self) -> None:
        """No silence is noticed any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, due: float) -> None:
        self.stop()
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        self._timer = None
        now = self._loop.time()
        if self._idle_s is not None:
            self._reset_at = max(self._reset_at, now - self._idle_s())
        late_s = now - due
        left_s = self._reset_at + self.limit_s - now
        if late_s > _LATE_S:
            self._reset_at = min(now, self._reset_at + late_s)
            left_s = max(_READ_S, self._reset_at + self.limit_s - now)
        if left_s <= 0:
            self._passed()
        else:
            self._look_at(now + min(left_s, _LOOK_S))
