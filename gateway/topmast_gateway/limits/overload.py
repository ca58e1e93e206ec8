"""How much the gateway takes on at once, in requests and in bytes of their bodies, and how much of that one caller may.

Bytes count as they come and are given back when the request ends, so memory has a known bound, and who only announces a
large body holds nothing. What one caller may hold depends on what is free: it can take most of an idle gateway, and
never so much that nothing is left for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from topmast_gateway.messages.errors import ApiError, unavailable

MAX_HELD_BYTES = 512 * 1024 * 1024
# One caller may hold so many times what is free: three quarters of all places when it is alone, and half of the bytes.
# Dynamic thresholds (Choudhury and Hahne, 1998): n callers who take all they get leave a part of 1 / (n * share + 1).
_PLACES_SHARE, _BYTES_SHARE = 3, 1


@dataclass(slots=True)
class _Held:
    streams: int = 0
    body_bytes: int = 0


class OverloadGuard:
    """A count of requests and of body bytes, each with an upper bound, and by caller."""

    def __init__(self, max_streams: int, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self._callers: dict[str, _Held] = {}
        self.streams = 0
        self.held_bytes = 0

    @contextmanager
    def admit(self, caller: str) -> Iterator[Reservation]:
        """Hold a place while the block runs. 503 when there is none, 429 when this caller has its part of them."""
        free = self._max_streams - self.streams
        if free <= 0:
            raise unavailable("gateway_full", f"the gateway already serves {self.streams} requests: try again", 1)
        held = self._callers.setdefault(caller, _Held())
        if held.streams >= _PLACES_SHARE * free:
            raise _own_share(f"{held.streams} of the {self._max_streams} requests that this gateway serves at once")
        held.streams += 1
        self.streams += 1
        place = Reservation(self, held)
        try:
            yield place
        finally:
            self.streams -= 1
            self.held_bytes -= place.body_bytes
            held.streams -= 1
            held.body_bytes -= place.body_bytes
            if not held.streams:
                del self._callers[caller]

    def take(self, held: _Held, more_bytes: int) -> None:
        """Room for more of a body of this caller; refused as in `admit`."""
        free = self._max_bytes - self.held_bytes
        if more_bytes > free:
            raise unavailable("gateway_full", "the gateway holds too many large requests: try again", 1)
        if held.body_bytes + more_bytes > _BYTES_SHARE * free:
            raise _own_share(f"{held.body_bytes} bytes of requests that are open")
        self.held_bytes += more_bytes
        held.body_bytes += more_bytes


class Reservation:
    """One request's part of the gateway."""

    def __init__(self, guard: OverloadGuard, held: _Held) -> None:
        self._guard = guard
        self._held = held
        self.body_bytes = 0

    def grow(self, more_bytes: int) -> None:
        """More of the body has come; an ApiError where there is no room for it."""
        self._guard.take(self._held, more_bytes)
        self.body_bytes += more_bytes


def _own_share(what: str) -> ApiError:
    message = f"this key has {what}, which is its share of a gateway that others use, too: wait for one to end"
    return ApiError(429, "rate_limit_exceeded", message, kind="requests", headers=((b"retry-after", b"1"),))
