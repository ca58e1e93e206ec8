"""The queue of held requests: how many, with how many bytes, may wait for a model's pod, and in which order they leave.

Those who wait for one sleeping model must neither fill the gateway nor fall onto the first pod in one moment. Whether
it is worth waiting is decided in hold.py; here are only places.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from topmast_gateway.messages.errors import ApiError, unavailable
from topmast_gateway.routing.model_status import ModelStatus

MAX_BYTES_PER_MODEL = 64 * 1024 * 1024
GAP_S = 0.02  # between two that leave: the engine decides on one before it sees the next
_RETRY_S = 5  # where no wake was measured yet
_LONGEST_RETRY_S = 600


@dataclass(frozen=True, slots=True)
class HoldTicket:
    """A place in a model's line. It stays the same when its request has to come back."""

    model: str
    number: int
    body_bytes: int


@dataclass(slots=True)
class _Waiting:
    numbers: list[int] = field(default_factory=list)  # sorted
    held_bytes: int = 0


class HoldQueue:
    """One queue per model that somebody waits for."""

    def __init__(self, max_requests: int, max_bytes: int = MAX_BYTES_PER_MODEL) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._waiting: dict[str, _Waiting] = {}
        self._drawn = 0

    def ticket(self, model: str, body_bytes: int) -> HoldTicket:
        """A place behind everybody who drew one before."""
        self._drawn += 1
        return HoldTicket(model, self._drawn, body_bytes)

    def waiting(self, model: str) -> int:
        """How many wait for the model now."""
        waiting = self._waiting.get(model)
        return len(waiting.numbers) if waiting else 0

    @contextmanager
    def enter(self, ticket: HoldTicket, status: ModelStatus) -> Iterator[None]:
        """Hold a place while the block runs; 503 with the measured time when there is none."""
        waiting = self._waiting.setdefault(ticket.model, _Waiting())
        full = len(waiting.numbers) >= self._max_requests or waiting.held_bytes + ticket.body_bytes > self._max_bytes
        if full and waiting.numbers:  # a body that is larger than the whole room may wait alone
            count = f"{len(waiting.numbers)} requests wait for the model {ticket.model} already"
            raise unavailable("too_many_waiting", f"{count} ({status.text()}): ask again later", retry_after(status))
        insort(waiting.numbers, ticket.number)
        waiting.held_bytes += ticket.body_bytes
        try:
            yield
        finally:
            del waiting.numbers[bisect_left(waiting.numbers, ticket.number)]
            waiting.held_bytes -= ticket.body_bytes
            if not waiting.numbers:
                del self._waiting[ticket.model]

    async def wait_turn(self, ticket: HoldTicket) -> None:
        """Return when those who came earlier have had their moment to leave."""
        ahead = bisect_left(self._waiting[ticket.model].numbers, ticket.number)
        if ahead:
            await asyncio.sleep(ahead * GAP_S)


def too_late(name: str, status: ModelStatus) -> ApiError:
    """503 for somebody whose time ends before the model should be ready. Its call has been made all the same."""
    message = f"the model {name} is not ready yet ({status.text()}): ask again then"
    return unavailable("model_waking", message, retry_after(status))


def retry_after(status: ModelStatus) -> int:
    """Whole seconds for a Retry-After header: the measured time, or a guess where there is none."""
    eta_s = status.eta_s()
    return _RETRY_S if eta_s is None else min(_LONGEST_RETRY_S, max(1, math.ceil(eta_s)))
