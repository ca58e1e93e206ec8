"""How much the gateway takes on at once, in requests and in bytes of their bodies.

Both are reserved before anything is read and given back when the request ends, so memory has a known bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from topmast_gateway.messages.completion import MAX_BODY_BYTES
from topmast_gateway.messages.errors import unavailable

MAX_HELD_BYTES = 512 * 1024 * 1024


class OverloadGuard:
    """A count of requests and of body bytes, each with an upper bound."""

    def __init__(self, max_streams: int, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self.streams = 0
        self.held_bytes = 0

    @contextmanager
    def admit(self, announced_bytes: int) -> Iterator[Reservation]:
        """Hold a place while the block runs; 503 when there is none.

        A body of unknown length reserves the most that it may have, until its size is known.
        """
        place = Reservation(self, announced_bytes or MAX_BODY_BYTES)
        if self.streams >= self._max_streams:
            raise unavailable("gateway_full", f"the gateway already serves {self.streams} requests: try again", 1)
        if self.held_bytes + place.reserved_bytes > self._max_bytes:
            raise unavailable("gateway_full", "the gateway holds too many large requests: try again", 1)
        self.streams += 1
        self.held_bytes += place.reserved_bytes
        try:
            yield place
        finally:
            self.streams -= 1
            self.held_bytes -= place.reserved_bytes


class Reservation:
    """One request's share of the gateway."""

    def __init__(self, overload: OverloadGuard, reserved_bytes: int) -> None:
        self._overload = overload
        self.reserved_bytes = reserved_bytes

    def settle(self, body_bytes: int) -> None:
        """The body is here and has this size: give back what was reserved beyond it."""
        self._overload.held_bytes += body_bytes - self.reserved_bytes
        self.reserved_bytes = body_bytes
