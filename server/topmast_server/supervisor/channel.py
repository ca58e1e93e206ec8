"""One HTTP request's inbox: what the engine made for its sequences, in order, with the time it arrived.

A taker gets everything that has piled up at once, so that a slow client costs one write and not many.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from topmast_server.messages import Token


@dataclass(frozen=True, slots=True)
class Arrival:
    """A token of the request's sequence number `index`; `at_s` is CLOCK_MONOTONIC."""

    index: int
    token: Token
    at_s: float


class Channel:
    """Single producer (the event loop's dispatcher), single consumer (the request's task)."""

    __slots__ = ("_arrivals", "_error", "_waiter")

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, arrival: Arrival) -> None:
        """Never blocks; bounded by the request's own max_tokens."""
        self._arrivals.append(arrival)
        self._wake()

    def fail(self, error: Exception) -> None:
        """The next `take` raises `error`, after what has arrived before it."""
        self._error = self._error or error
        self._wake()

    async def take(self) -> list[Arrival]:
        """Everything that has arrived, at least one thing."""
        while not self._arrivals:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
