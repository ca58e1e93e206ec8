"""Leaving without dropping anybody: first not ready, then no new requests, then wait for the running ones.

Routers need a moment to notice that a pod is not ready, so new requests are still taken for the notice time.
"""

from __future__ import annotations

import asyncio
import time


class Drain:
    """Starting twice is harmless; the second start does not prolong anything."""

    def __init__(self, notice_s: float) -> None:
        self._notice_s = notice_s
        self._started_s: float | None = None

    def start(self, *, notice: bool = True) -> None:
        """From now on the server is not ready. Without notice new requests are turned away at once."""
        if self._started_s is None:
            self._started_s = time.monotonic()
        if not notice:
            self._notice_s = 0.0

    @property
    def started(self) -> bool:
        """Whether the server is leaving."""
        return self._started_s is not None

    @property
    def refuses(self) -> bool:
        """Whether new requests are turned away."""
        return self.notice_left_s == 0 and self.started

    @property
    def notice_left_s(self) -> float:
        """How long new requests are still taken after the start of the drain."""
        return 0.0 if self._started_s is None else max(0.0, self._started_s + self._notice_s - time.monotonic())


class InFlight:
    """The HTTP requests that are being answered."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self.count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self.count == 0:
            self._none.set()

    async def wait_for_none(self, timeout_s: float) -> bool:
        """Whether all were answered in time."""
        try:
            await asyncio.wait_for(self._none.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
