"""One request's wait for a pod: how long it may last, whom to call meanwhile, and when waiting makes no sense.

A model that is up and has lost its pods is waited for as long as `timeouts` says; one that may sleep is called, and
waited for while the request has time. An answer that was started waits in no queue and is refused by no estimate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from topmast_gateway.activation.hold_queue import HoldQueue, HoldTicket, retry_after, too_late
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.errors import ApiError, unavailable
from topmast_gateway.messages.response import EngineAnswer
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.model_table import Model, Route

_POLL_S = 0.5  # while waiting; a pod's return is seen at once, the end of a suspicion within this time
_LONGEST_PAUSE_S = 5.0  # before a full engine is asked again
_HUMAN_RETRY_S = 60  # where a human has to act first

Notify = Callable[[str], Awaitable[None]]


class Hold:
    """Its clock runs from the first trouble to the next progress. `notify` is given a sentence while it waits."""

    def __init__(
        self,
        state: AnswerState,
        timeouts: Timeouts,
        cluster: ClusterState,
        hold_queue: HoldQueue,
        backlog: Backlog,
        waker: Waker,
        metrics: Metrics,
        notify: Notify,
    ) -> None:
        self._state = state
        self._timeouts = timeouts
        self._cluster = cluster
        self._hold_queue = hold_queue
        self._backlog = backlog
        self._waker = waker
        self._metrics = metrics
        self._notify = notify
        self._since: float | None = None  # loop time since when there was nobody to ask
        self._ticket: HoldTicket | None = None

    def start_clock(self) -> None:
        """Start the clock, if it does not run yet."""
        if self._since is None:
            self._since = asyncio.get_running_loop().time()

    def reset_clock(self) -> None:
        """The answer has made progress: what was waited before no longer counts."""
        self._since = None

    def left_s(self, model: Model) -> float:
        """Seconds for which the request may still wait."""
        own_s, timeouts = self._state.time_left_s(), self._timeouts
        longest_s = timeouts.hold
        if self._state.started:
            longest_s = timeouts.hold_started
        elif model.sleeps and own_s is not None:
            longest_s = own_s + self._waited_s()
        elif model.sleeps and self._state.request.stream:
            longest_s = timeouts.answer  # comments keep its connection alive, and tell what it waits for
        left_s = longest_s - self._waited_s()
        return left_s if own_s is None else min(left_s, own_s)

    async def until_pod_usable(self, route: Callable[[], Route]) -> None:
        """Return when the route has a usable pod; an ApiError when nobody will start one, or not in time."""
        self.start_clock()
        if self._state.started:
            await self._until_there_is_one(route)
            return
        self._ticket = self._ticket or self._hold_queue.ticket(self._state.model, len(self._state.request.body))
        with self._place(self._ticket, route()):
            await self._until_there_is_one(route)
            await self._hold_queue.wait_turn(self._ticket)

    async def until_pod_has_room(self, full: EngineAnswer, route: Route) -> bool:
        """After a wait: let the pod work off earlier ones. False without time for that, or without a wait before."""
        pause_s = min(_seconds(full), _LONGEST_PAUSE_S)
        if self._ticket is None or pause_s >= self.left_s(route.model):
            return False
        with self._place(self._ticket, route):
            await self._notify(f"waiting for room on {self._cluster.routes.public_name(route.model)}")
            await asyncio.sleep(pause_s)
            await self._hold_queue.wait_turn(self._ticket)
        return True

    def no_pod_error(self, route: Route) -> ApiError:
        """503 at the end of the wait."""
        name, status = self._cluster.routes.public_name(route.model), self._waker.status(route.model)
        if route.model.sleeps:
            return too_late(name, status)
        message = f"no pod of the model {name} is ready; waited {self._waited_s():.0f} s, try again soon"
        return unavailable("no_ready_pod", message, retry_after(status))

    @contextmanager
    def _place(self, ticket: HoldTicket, route: Route) -> Iterator[None]:
        """Among those who wait, for as long as the block runs."""
        state = self._state
        with (
            self._backlog.waiting(state.model, state.request),
            self._hold_queue.enter(ticket, self._waker.status(route.model)),
        ):
            yield

    async def _until_there_is_one(self, route: Callable[[], Route]) -> None:
        self._metrics.held += 1
        try:
            while not self._cluster.usable(now := route()):
                await self._poll(now)
        finally:
            self._metrics.held -= 1

    async def _poll(self, route: Route) -> None:
        model = route.model
        if model.suspended:
            message = f"the model {model.key} is suspended: unset spec.suspend of its LLMDeployment"
            raise unavailable("model_suspended", message, _HUMAN_RETRY_S)
        if model.status.stalled and not self._state.started:
            message = f"the model {model.key} cannot start: its LLMDeployment's condition Stalled says why"
            raise unavailable("model_stalled", message, _HUMAN_RETRY_S)
        if model.sleeps:
            await self._waker.call(model.key)
        left_s, status = self.left_s(model), self._waker.status(model)
        hopeless = model.sleeps and not self._state.started and (status.eta_s() or 0.0) > left_s
        if left_s <= 0 or hopeless:
            raise self.no_pod_error(route)
        await self._cluster.wait_for_change(min(left_s, _POLL_S))
        doing = f": {status.text()}" if status.phase else ""
        await self._notify(f"waiting for a pod of {self._cluster.routes.public_name(model)}{doing}")

    def _waited_s(self) -> float:
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since


def _seconds(answer: EngineAnswer) -> float:
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) < 6:
            return float(value)
    return 1.0
