"""How much the gateway takes on at once, in requests and in bytes of their bodies, and how much of that one caller may.

Bytes count as they come and are given back when the request ends, so memory has a known bound, and who only announces a
large body holds nothing. What one caller may hold depends on what is free (fairness/dynamic_threshold.py).
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from topmast_gateway.fairness.dynamic_threshold import DynamicThreshold, NoRoom
from topmast_gateway.messages.errors import ApiError, unavailable

MAX_HELD_BYTES = 512 * 1024 * 1024
# One caller alone gets three quarters of all places, and half of the bytes.
_PLACES_SHARE, _BYTES_SHARE = 3, 1


class OverloadGuard:
    """A count of requests and of body bytes, each with an upper bound, and by caller."""

    def __init__(self, max_streams: int, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_streams = max_streams
        self._places = DynamicThreshold(max_streams, _PLACES_SHARE)
        self._bytes = DynamicThreshold(max_bytes, _BYTES_SHARE)

    @property
    def streams(self) -> int:
        """Requests that are open."""
        return self._places.taken

    @property
    def held_bytes(self) -> int:
        """Bytes of their bodies."""
        return self._bytes.taken

    def admit(self, caller: str) -> Reservation:
        """Take a place, held until the reservation's block ends. 503 when there is none, 429 when this caller has its
        part of them.
        """
        match self._places.take(caller):
            case NoRoom.FULL:
                raise unavailable("gateway_full", f"the gateway already serves {self.streams} requests: try again", 1)
            case NoRoom.OWN_SHARE:
                own, most = self._places.held(caller), self._max_streams
                raise _own_share(f"{own} of the {most} requests that this gateway serves at once")
        return Reservation(self._places, self._bytes, caller)


class Reservation:
    """One request's place and part of the gateway's memory, given back when its block ends."""

    __slots__ = ("_body_bytes", "_bytes", "_caller", "_places")

    def __init__(self, places: DynamicThreshold, held_bytes: DynamicThreshold, caller: str) -> None:
        self._places = places
        self._bytes = held_bytes
        self._caller = caller
        self._body_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._places.give_back(self._caller)
        self._bytes.give_back(self._caller, self._body_bytes)

    def grow(self, more_bytes: int) -> None:
        """More of the body has come; an ApiError where there is no room for it."""
        match self._bytes.take(self._caller, more_bytes):
            case NoRoom.FULL:
                raise unavailable("gateway_full", "the gateway holds too many large requests: try again", 1)
            case NoRoom.OWN_SHARE:
                raise _own_share(f"{self._bytes.held(self._caller)} bytes of requests that are open")
        self._body_bytes += more_bytes


def _own_share(what: str) -> ApiError:
    message = f"this key has {what}, which is its share of a gateway that others use, too: wait for one to end"
    return ApiError(429, "rate_limit_exceeded", message, kind="requests", headers=((b"retry-after", b"1"),))
