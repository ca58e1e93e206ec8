"""Holds requests until a model has a slot for them. The order is fair_queue.py's; here are the tasks that wait.

Each gateway has a queue of its own. A request leaves it when it gets a slot, its time is over, or its client goes. A
model without a pod has no slot: also those who wait until it is awake wait here, in the same order.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Protocol

import msgspec

from topmast_gateway.fairness.capacity import FreePlaces
from topmast_gateway.fairness.dynamic_threshold import DynamicThreshold, NoRoom
from topmast_gateway.fairness.fair_queue import FairQueue, QueueFull
from topmast_gateway.fairness.virtual_token_counter import QueueEntry
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.messages.errors import ApiError, model_unavailable
from topmast_gateway.messages.token_usage import TokenUsage

_POLL_S: Final = 0.02  # while somebody waits: pods come and recover, and prompts are computed, without a request's end
_RETRY_S: Final = (1, 120)  # bounds of Retry-After
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024  # of bodies that wait for one model: others need the memory, too
_BYTES_SHARE: Final = 1  # of one caller, times what is free


class QueueRequest(msgspec.Struct, frozen=True):
    """A slot that is asked for: whose, how urgent, with how long a prompt (tokens), and how large a body (bytes)."""

    caller: Caller
    priority: Priority
    prompt: int
    body_bytes: int = 0


class Waiting(Protocol):
    """How long a request may wait."""

    @property
    def longest_queue_s(self) -> float:
        """While every pod is busy."""

    def no_pod_retry_s(self) -> int | None:
        """When another try is worth it while there is no pod; None where there is one."""

    async def look(self) -> float:
        """Seconds until it wants to look again, none where its time is over; an ApiError when waiting has no sense."""


class Slot:
    """`with`: gives the seconds that were waited for it."""

    __slots__ = ("_dispatcher", "_entry", "_model", "_queue", "_waited_s")

    def __init__(
        self, dispatcher: Dispatcher, model: str, queue: FairQueue, entry: QueueEntry, waited_s: float
    ) -> None:
        self._dispatcher = dispatcher
        self._model = model
        self._queue = queue
        self._entry = entry
        self._waited_s = waited_s

    def __enter__(self) -> float:
        return self._waited_s

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._dispatcher.give_back(self._model, self._queue, self._entry)


async def _unless_called(called: asyncio.Future[None], look: Coroutine[Any, Any, float]) -> float:
    """What the look says; 0 as soon as the request is called: looks may wait for the operator, and slots are short."""
    looking = asyncio.create_task(look)
    try:
        both: set[asyncio.Future[Any]] = {called, looking}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return looking.result() if looking.done() else 0.0
    finally:
        looking.cancel()


class Dispatcher:
    """The queues of all models. `free_places` says how many more requests a model's pods can take."""

    def __init__(self, free_places: FreePlaces, max_waiting: int, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._free_places = free_places
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._queues: dict[str, FairQueue] = {}
        self._bytes: dict[str, DynamicThreshold] = {}  # of bodies that wait for a model, by caller
        self._waiting: dict[QueueEntry, asyncio.Future[None]] = {}
        self._polling: asyncio.TimerHandle | None = None

    async def slot(self, model: str, wanted: QueueRequest, usage: TokenUsage, waiting: Waiting) -> Slot:
        """Wait for a slot, which is held until its block ends.

        An ApiError when the queue is full, or when no slot comes in time.
        """
        loop = asyncio.get_running_loop()
        if (queue := self._queues.get(model)) is None:
            queue = self._queues[model] = FairQueue(self._max_waiting)
        entry = QueueEntry(wanted.caller, wanted.priority, wanted.prompt, usage, loop.time())
        self._arrive(queue, entry, model, waiting)
        called = self._waiting[entry] = loop.create_future()
        try:
            self._dispatch(model, queue)
            if not called.done():
                self._schedule_poll()
                with self._room(model, queue, wanted, waiting):
                    await self._called(called, queue, wanted, model, waiting)
        except BaseException:
            self.give_back(model, queue, entry)
            raise
        return Slot(self, model, queue, entry, loop.time() - entry.arrived_s)

    def give_back(self, model: str, queue: FairQueue, entry: QueueEntry) -> None:
        """The request has left the queue, or its slot."""
        self._end(queue, entry)
        self._dispatch(model, queue)
        if queue.idle and self._queues.get(model) is queue:
            del self._queues[model]

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by model."""
        return {model: queue.waiting for model, queue in self._queues.items()}

    def _arrive(self, queue: FairQueue, entry: QueueEntry, model: str, waiting: Waiting) -> None:
        expected_s = queue.wait_s(entry.caller, entry.arrived_s)
        if expected_s is not None and expected_s > waiting.longest_queue_s:
            raise self._full(queue, entry.caller, model, waiting, own=queue.share(entry.caller) < 1)
        outcome = queue.arrive(entry)
        if isinstance(outcome, QueueFull):
            raise self._full(queue, entry.caller, model, waiting, own=outcome.own)
        if outcome is not None:
            refusal = self._full(queue, outcome.caller, model, waiting, own=True)
            called = self._waiting.pop(outcome)
            if not called.cancelled():
                called.set_exception(refusal)

    @contextmanager
    def _room(self, model: str, queue: FairQueue, wanted: QueueRequest, waiting: Waiting) -> Iterator[None]:
        """Memory for a body that waits: nobody's large ones keep others out, and one that waits alone always fits."""
        name, size = wanted.caller.name, wanted.body_bytes
        room = self._bytes.setdefault(model, DynamicThreshold(self._max_bytes, _BYTES_SHARE))
        no_room = room.take(name, size) if room.taken else None
        if no_room is not None:
            raise self._full(queue, wanted.caller, model, waiting, own=no_room is NoRoom.OWN_SHARE)
        if not room.taken:
            room.take(name, size := min(size, self._max_bytes // 2))
        try:
            yield
        finally:
            room.give_back(name, size)
            if not room.taken:
                self._bytes.pop(model, None)

    async def _called(
        self, called: asyncio.Future[None], queue: FairQueue, wanted: QueueRequest, model: str, waiting: Waiting
    ) -> None:
        while not called.done():
            left_s = await _unless_called(called, waiting.look())
            if left_s <= 0 and not called.done():
                retry_s = self._retry_s(queue, wanted.caller, waiting)
                message = f"the model {model} had no room for this request in time: try again in {retry_s} s"
                raise model_unavailable("deadline_exceeded", message, retry_s)
            await asyncio.wait({called}, timeout=left_s)
        called.result()

    def _dispatch(self, model: str, queue: FairQueue) -> None:
        if not queue.waiting:
            return
        now_s, free = asyncio.get_running_loop().time(), self._free_places(model, queue.running)
        while (entry := queue.next(now_s, free)) is not None:
            free -= 1
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

    def _full(self, queue: FairQueue, caller: Caller, model: str, waiting: Waiting, *, own: bool) -> ApiError:
        retry_s = self._retry_s(queue, caller, waiting)
        if not own:
            message = f"{queue.waiting} requests wait for the model {model}: try again in {retry_s} s"
            return model_unavailable("queue_full", message, retry_s)
        message = f"this key's requests fill its share of the queue of {model}: try again in {retry_s} s, or send fewer"
        back = ((b"retry-after", str(retry_s).encode()),)
        return ApiError(429, "rate_limit_exceeded", message, kind="requests", headers=back)

    def _retry_s(self, queue: FairQueue, caller: Caller, waiting: Waiting) -> int:
        if (no_pod_s := waiting.no_pod_retry_s()) is not None:
            return no_pod_s
        wait_s = queue.wait_s(caller, asyncio.get_running_loop().time())
        least, most = _RETRY_S
        return most if wait_s is not None and wait_s > most else max(least, math.ceil(wait_s or least))
