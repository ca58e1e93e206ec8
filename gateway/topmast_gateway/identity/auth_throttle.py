"""Counts failed authentications per address, so that guessing is answered by 429 and shows in one line of the log.

Only what is wrong is counted and held back. A key that is right always opens: callers behind one load balancer share an
address, and nobody guesses a key of 240 random bits, however fast.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from topmast_gateway.identity.client_ip import network_of

log = logging.getLogger(__name__)

_WINDOW_S = 60.0
MAX_ADDRESSES = 10_000


@dataclass(slots=True)
class _Window:
    began: float
    failures: int = 0


class AuthThrottle:
    """At most `per_minute` failures get the reason; 0 is no limit. The oldest of too many addresses is forgotten."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # in the order in which they began

    def __len__(self) -> int:
        return len(self._windows)

    def failed(self, address: str) -> int | None:
        """Count a failure; the seconds after which to come back when there were too many, else None."""
        if not self._per_minute:
            return None
        now, peer = self._clock(), network_of(address)
        window = self._windows.get(peer)
        if window is None or now - window.began >= _WINDOW_S:
            self._windows.pop(peer, None)
            window = self._windows[peer] = _Window(now)
            if len(self._windows) > MAX_ADDRESSES:
                self._windows.popitem(last=False)
        window.failures += 1
        if window.failures <= self._per_minute:
            return None
        if window.failures == self._per_minute + 1:
            log.warning("more than %d failed authentications within a minute from %s", self._per_minute, peer)
        return max(1, math.ceil(window.began + _WINDOW_S - now))
