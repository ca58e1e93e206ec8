"""How much room a model's pods have: the gateway's own estimate, when nobody knows better.

Each pod may have so many requests of this gateway in flight; a pod that says that it is full has fewer from then on,
and gets them back one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from topmast_gateway.fleet import Fleet
from topmast_gateway.loads import Loads

# How many more requests a model's pods can take, of its key and of how many this gateway has let through to it.
FreePlaces = Callable[[str, int], int]
_NO_BOUND: Final = 1_000_000
_RECOVER_S: Final = 2.0  # per request, after a pod was full


class Room:
    """`per_pod` is the most that a pod gets; `Loads` remembers what it had when it was full."""

    def __init__(self, fleet: Fleet, loads: Loads, per_pod: int) -> None:
        self._fleet = fleet
        self._loads = loads
        self._per_pod = per_pod

    def free_places(self, model: str, running: int) -> int:
        """In all usable pods together, or in those that will be again in a moment.

        Without a pod there is nothing to wait for here: who holds requests until one is there is behind the turnstile.
        """
        route = self._fleet.routes.by_key(model)
        pods = (self._fleet.usable(route) or route.pods) if route else ()
        return sum(self._limit(pod.uid) for pod in pods) - running if pods else _NO_BOUND

    def _limit(self, uid: str) -> int:
        if (full := self._loads.full.get(uid)) is None:
            return self._per_pod
        requests, at = full
        return min(self._per_pod, max(1, requests) + int((time.monotonic() - at) / _RECOVER_S))
