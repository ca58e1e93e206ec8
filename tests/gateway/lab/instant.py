"""An event loop whose time passes only where nothing is left to do, and then at once.

For tests of limits in seconds that need no network: no machine is too slow for them, and none of them takes any time.
"""

from __future__ import annotations

import asyncio


class InstantLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer as soon as everything waits."""

    _now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now_s = max(self._now_s, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]
