"""Notices that nothing has come for too long, at the cost of one timer per stream and not one per event."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_LOOK_S = 1.0


class IdleTimeout:
    """`async with`: TimeoutError in the block once `limit_s` have passed since the last `reset()`.

    `limit_s` may be changed at any time; it is looked at once a second.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._reset_at = self._loop.time()
        self._clock = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def reset(self) -> None:
        """Something came."""
        self._reset_at = self._loop.time()

    async def __aenter__(self) -> Self:
        await self._clock.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._clock.__aexit__(kind, error, trace)

    def _look(self) -> None:
        left_s = self._reset_at + self.limit_s - self._loop.time()
        if left_s <= 0:
            self._clock.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(min(left_s, _LOOK_S), self._look)
