"""Notices that nothing has come for too long, at the cost of one timer per stream and not one per event.

A pause of this process itself is nobody's silence: while it stands still it can read nothing, and when it resumes the
event loop looks at timers before it looks at sockets. Such time does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

_LOOK_S = 1.0
_LATE_S = 0.1  # a look that comes later than this shows that the process stood still
_READ_S = 0.25  # at least, after that: to read what has come meanwhile


class IdleTimeout:
    """`async with`: TimeoutError in the block once `limit_s` have passed since the last `reset()`.

    `limit_s` may be changed at any time; it is looked at once a second. `idle_s` tells how long ago somebody else
    last saw something come: a call less for every event.
    """

    def __init__(self, limit_s: float, idle_s: Callable[[], float] | None = None) -> None:
        self.limit_s = limit_s
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._reset_at = self._loop.time()
        self._clock = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def reset(self) -> None:
        """Something came."""
        self._reset_at = self._loop.time()

    def stop(self) -> None:
        """No silence ends the block any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def __aenter__(self) -> Self:
        await self._clock.__aenter__()
        self._look(self._loop.time())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self._clock.__aexit__(kind, error, trace)

    def _look(self, due: float) -> None:
        now = self._loop.time()
        if self._idle_s is not None:
            self._reset_at = max(self._reset_at, now - self._idle_s())
        late_s = now - due
        left_s = self._reset_at + self.limit_s - now
        if late_s > _LATE_S:
            self._reset_at = min(now, self._reset_at + late_s)
            left_s = max(_READ_S, self._reset_at + self.limit_s - now)
        if left_s <= 0:
            self._clock.reschedule(now)
        else:
            due = now + min(left_s, _LOOK_S)
            self._timer = self._loop.call_at(due, self._look, due)
