"""Holds requests until a model has a slot for them. The order is fair_queue.py's; here are the tasks that wait.

Each gateway has a queue of its own. A request leaves it when it gets a slot, its time is over, or its client goes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from topmast_gateway.fairness.capacity import FreePlaces
from topmast_gateway.fairness.fair_queue import FairQueue, QueueFull
from topmast_gateway.fairness.virtual_token_counter import QueueEntry
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.messages.errors import ApiError, unavailable
from topmast_gateway.messages.token_usage import TokenUsage

_POLL_S: Final = 0.02  # while somebody waits: pods come and recover, and prompts are computed, without a request's end
_RETRY_S: Final = (1, 120)  # bounds of Retry-After


@dataclass(frozen=True, slots=True)
class QueueRequest:
    """A slot that is asked for: whose, how urgent, with how long a prompt (tokens), and for how long to wait (s)."""

    caller: Caller
    priority: Priority
    prompt: int
    longest_wait_s: float


class Dispatcher:
    """The queues of all models. `free_places` says how many more requests a model's pods can take."""

    def __init__(self, free_places: FreePlaces, max_waiting: int) -> None:
        self._free_places = free_places
        self._max_waiting = max_waiting
        self._queues: dict[str, FairQueue] = {}
        self._waiting: dict[QueueEntry, asyncio.Future[None]] = {}
        self._polling: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def slot(self, model: str, wanted: QueueRequest, usage: TokenUsage) -> AsyncIterator[float]:
        """Wait for a slot and hold it while the block runs; gives the seconds waited.

        An ApiError when the queue is full, or when no slot comes in time.
        """
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(model, FairQueue(self._max_waiting))
        entry = QueueEntry(wanted.caller, wanted.priority, wanted.prompt, usage, loop.time())
        self._arrive(queue, entry, model, wanted)
        called = self._waiting[entry] = loop.create_future()
        try:
            self._dispatch(model, queue)
            if not called.done():
                self._schedule_poll()
                await self._called(called, queue, wanted, model)
            yield loop.time() - entry.arrived_s
        finally:
            self._end(queue, entry)
            self._dispatch(model, queue)
            if queue.idle and self._queues.get(model) is queue:
                del self._queues[model]

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by model."""
        return {model: queue.waiting for model, queue in self._queues.items()}

    def _arrive(self, queue: FairQueue, entry: QueueEntry, model: str, wanted: QueueRequest) -> None:
        expected_s = queue.wait_s(wanted.caller, entry.arrived_s)
        if expected_s is not None and expected_s > wanted.longest_wait_s:
            raise self._full(queue, wanted.caller, model, own=queue.share(wanted.caller) < 1)
        outcome = queue.arrive(entry)
        if isinstance(outcome, QueueFull):
            raise self._full(queue, wanted.caller, model, own=outcome.own)
        if outcome is not None:
            refusal = self._full(queue, outcome.caller, model, own=True)
            called = self._waiting.pop(outcome)
            if not called.cancelled():
                called.set_exception(refusal)

    async def _called(self, called: asyncio.Future[None], queue: FairQueue, wanted: QueueRequest, model: str) -> None:
        try:
            async with asyncio.timeout(wanted.longest_wait_s):
                await called
        except TimeoutError:
            retry_s = self._retry_s(queue, wanted.caller)
            message = (
                f"the model {model} had no room for this request within {wanted.longest_wait_s:g} s: try again later"
            )
            raise unavailable("deadline_exceeded", message, retry_s) from None

    def _dispatch(self, model: str, queue: FairQueue) -> None:
        now_s = asyncio.get_running_loop().time()
        while queue.waiting:
            entry = queue.next(now_s, self._free_places(model, queue.running))
            if entry is None:
                return
            called = self._waiting.pop(entry)
            if not called.cancelled():  # a client that has just gone gives its slot back in a moment
                called.set_result(None)

    def _end(self, queue: FairQueue, entry: QueueEntry) -> None:
        """Out of the queue, or out of the engine; one that was bumped is in neither."""
        if self._waiting.pop(entry, None) is not None:
            queue.leave(entry)
        elif queue.runs(entry):
            queue.finish(entry)

    def _schedule_poll(self) -> None:
        if self._polling is None:
            self._polling = asyncio.get_running_loop().call_later(_POLL_S, self._poll)

    def _poll(self) -> None:
        self._polling = None
        for model, queue in self._queues.items():
            self._dispatch(model, queue)
        if self._waiting:
            self._schedule_poll()

    def _full(self, queue: FairQueue, caller: Caller, model: str, *, own: bool) -> ApiError:
        retry_s = self._retry_s(queue, caller)
        if not own:
            message = f"{queue.waiting} requests wait for the model {model}: try again in {retry_s} s"
            return unavailable("queue_full", message, retry_s)
        message = f"this key's requests fill its share of the queue of {model}: try again in {retry_s} s, or send fewer"
        back = ((b"retry-after", str(retry_s).encode()),)
        return ApiError(429, "rate_limit_exceeded", message, kind="requests", headers=back)

    def _retry_s(self, queue: FairQueue, caller: Caller) -> int:
        wait_s = queue.wait_s(caller, asyncio.get_running_loop().time())
        least, most = _RETRY_S
        return most if wait_s is not None and wait_s > most else max(least, math.ceil(wait_s or least))
