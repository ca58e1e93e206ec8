"""How much the gateway takes on at once, in requests and in bytes of their bodies.

Both are reserved before anything is read and given back when the request ends, so memory has a known bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from topmast_gateway.errors import unavailable
from topmast_gateway.request import MAX_BODY_BYTES

MAX_HELD_BYTES = 512 * 1024 * 1024


class Admission:
    """A count of requests and of body bytes, each with an upper bound."""

    def __init__(self, max_streams: int, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_streams = max_streams
        self._max_bytes = max_bytes
        self.streams = 0
        self.held_bytes = 0

    @contextmanager
    def admit(self, announced_bytes: int) -> Iterator[None]:
        """Hold a place while the block runs; 503 when there is none.

        A body of unknown length reserves the most that it may have: chunked requests are rare.
        """
        reserved = announced_bytes or MAX_BODY_BYTES
        if self.streams >= self._max_streams:
            raise unavailable("gateway_full", f"the gateway already serves {self.streams} requests: try again", 1)
        if self.held_bytes + reserved > self._max_bytes:
            raise unavailable("gateway_full", "the gateway holds too many large requests: try again", 1)
        self.streams += 1
        self.held_bytes += reserved
        try:
            yield
        finally:
            self.streams -= 1
            self.held_bytes -= reserved
