"""Counts failed authentications per address, so that guessing is answered by 429 and shows in one line of the log.

While an address is held back, only keys that have opened the gateway from there before do so: a guesser learns nothing
more, and others behind the same address do not suffer, unless their key is new to it.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

_WINDOW_S = 60.0
MAX_ADDRESSES = MAX_KNOWN_KEYS = 10_000


@dataclass(slots=True)
class _Window:
    began: float
    failures: int = 0


class AuthThrottle:
    """At most `per_minute` failures are told why; 0 is no limit. The oldest of too many addresses is forgotten."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # in the order in which they began
        self._regulars: OrderedDict[tuple[str, str], None] = OrderedDict()  # addresses and the keys that came from them

    def __len__(self) -> int:
        return len(self._windows)

    def holds_back(self, address: str, name: str) -> bool:
        """Whether the valid key of this name must wait, because it is new to an address that is held back."""
        if not self._per_minute:
            return False
        peer = _network(address)
        regular = (peer, name)
        if regular in self._regulars:
            self._regulars.move_to_end(regular)
            return False
        window = self._windows.get(peer)
        if window and window.failures >= self._per_minute and self._clock() - window.began < _WINDOW_S:
            return True
        self._regulars[regular] = None
        if len(self._regulars) > MAX_KNOWN_KEYS:
            self._regulars.popitem(last=False)
        return False

    def failed(self, address: str) -> int | None:
        """Count a failure; the seconds after which to come back when there were too many, else None."""
        if not self._per_minute:
            return None
        now, peer = self._clock(), _network(address)
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


def _network(address: str) -> str:
    """The address, or an IPv6 address's /64: whoever has one of those has all of them."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False))
