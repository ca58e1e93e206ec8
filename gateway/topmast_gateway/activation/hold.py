"""One request's waits for a pod: how long they may last, whom to call meanwhile, and when waiting makes no sense.

A request waits in its model's fair queue, also while there is no pod at all; `look` says there how long it may stay. A
request that has a slot waits here. A model that is up and has lost its pods is waited for as long as the timeouts say;
one that may sleep is called, and waited for while the request has time. An answer that was started is refused by no
estimate, and by no fallback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from topmast_gateway.activation import refusals
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.errors import ApiError, ModelUnavailable
from topmast_gateway.messages.response import EngineAnswer
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.model_table import Model, Route

_POLL_S = 0.5  # while waiting; a pod's return is seen at once, the end of a suspicion within this time
_LONGEST_PAUSE_S = 5.0  # before a full engine is asked again
_NOTIFY_AFTER_S, _NOTIFY_EVERY_S = 3.0, 1.0


class Hold:
    """Its clock runs from the first trouble to the next progress. `with`: for as long as the request is worked on.

    `fallback_is_ready` says whether another model would answer at once.
    """

    def __init__(
        self,
        state: AnswerState,
        timeouts: Timeouts,
        cluster: ClusterState,
        backlog: Backlog,
        waker: Waker,
        metrics: Metrics,
        fallback_is_ready: Callable[[], bool],
    ) -> None:
        self._state = state
        self.timeouts = timeouts
        self._cluster = cluster
        self._backlog = backlog
        self._waker = waker
        self._metrics = metrics
        self.fallback_is_ready = fallback_is_ready
        self._since: float | None = None  # loop time since when there was nobody to ask
        self._looked_at: float | None = None  # loop time, in the queue
        self._held_s = self._busy_s = 0.0  # in the queue so far: without a pod, and with busy ones
        self._has_waited = self._is_held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._count_held(False)

    def start_clock(self) -> None:
        """Start the clock, if it does not run yet."""
        if self._since is None:
            self._since = asyncio.get_running_loop().time()

    def reset_clock(self) -> None:
        """The answer has made progress: what was waited before no longer counts."""
        self._since, self._held_s = None, 0.0

    def left_s(self, model: Model) -> float:
        """Seconds for which the request may still wait for a pod."""
        own_s, timeouts = self._state.time_left_s(), self.timeouts
        longest_s = timeouts.hold_s
        if self._state.started:
            longest_s = timeouts.resume_hold_s
        elif model.sleeps and own_s is not None:
            longest_s = own_s + self._waited_s()
        elif model.sleeps and self._state.request.stream:
            longest_s = timeouts.answer_s  # comments keep its connection alive, and say what it waits for
        left_s = longest_s - self._waited_s()
        return left_s if own_s is None else min(left_s, own_s)

    @property
    def longest_queue_s(self) -> float:
        """For how long it may wait while every pod is busy."""
        own_s = self._state.time_left_s()
        return self.timeouts.queue_s if own_s is None else own_s + self._busy_s

    def no_pod_retry_s(self) -> int | None:
        """When another try is worth it while there is no pod; None where there is one."""
        route = self._cluster.routes.by_key(self._state.model)
        if route is None or self._cluster.usable(route):
            return None
        return refusals.retry_after_s(self._waker.status(route.model))

    async def look(self) -> float:
        """In the queue, again and again: seconds for which it may stay there; an ApiError when it may not.

        At least every half second, because a model that sleeps has to be called, and who waits gets a comment.
        """
        now, route = asyncio.get_running_loop().time(), self.route()
        passed_s, self._looked_at = 0.0 if self._looked_at is None else now - self._looked_at, now
        if self._is_held:
            self._held_s += passed_s
        else:
            self._busy_s += passed_s
        if not self._cluster.usable(route):
            return min(await self._look_for_pod(route), _POLL_S)
        self._count_held(False)
        return min(self.longest_queue_s - self._busy_s, _POLL_S)

    async def until_pod_usable(self) -> None:
        """With a slot: return when there is a usable pod; an ApiError when nobody will start one, or not in time."""
        self.start_clock()
        with self._backlog.waiting(self._state.model, self._state.request):
            while not self._cluster.usable(route := self.route()):
                left_s = await self._look_for_pod(route)
                await self._cluster.wait_for_change(min(left_s, _POLL_S))
        self._count_held(False)

    async def until_pod_has_room(self, full: EngineAnswer, route: Route) -> bool:
        """After a wait: let the pod work off earlier ones. False without time for that, or without a wait before."""
        pause_s = min(_seconds(full), _LONGEST_PAUSE_S)
        if not self._has_waited or pause_s >= self.left_s(route.model):
            return False
        self.start_clock()
        with self._backlog.waiting(self._state.model, self._state.request):
            self._notify(f"waiting for room on {self._cluster.routes.public_name(route.model)}")
            await asyncio.sleep(pause_s)
        return True

    def route(self) -> Route:
        """The model as it is now; 404 when it was deleted."""
        if (route := self._cluster.routes.by_key(self._state.model)) is None:
            raise ApiError(404, "model_not_found", f"the model {self._state.model} was just deleted", param="model")
        return route

    def no_pod_error(self, route: Route) -> ModelUnavailable:
        """503 at the end of the wait."""
        name, status = self._cluster.routes.public_name(route.model), self._waker.status(route.model)
        return refusals.no_pod(route.model, name, status, self._waited_s())

    async def _look_for_pod(self, route: Route) -> float:
        """What is to be done while there is none; seconds for which it may wait."""
        self._has_waited = True
        self._count_held(True)
        model, started = route.model, self._state.started
        if refusal := refusals.never_starts(model, started=started):
            raise refusal
        if model.sleeps:
            await self._waker.call(model.key)
        left_s, status = self.left_s(model), self._waker.status(model)
        hopeless = model.sleeps and not started and (status.eta_s() or 0.0) > left_s
        if left_s <= 0 or hopeless or (not started and self.fallback_is_ready()):
            raise self.no_pod_error(route)
        doing = f": {status.text()}" if status.phase else ""
        self._notify(f"waiting for a pod of {self._cluster.routes.public_name(model)}{doing}")
        return left_s

    def _notify(self, text: str) -> None:
        """Show who waits for a stream that there is still somebody there, and why it takes so long."""
        writer = self._state.writer
        longest_s = _NOTIFY_AFTER_S if writer.status is None else _NOTIFY_EVERY_S
        if self._state.request.stream and writer.idle_s() >= longest_s:
            writer.comment(text)

    def _count_held(self, held: bool) -> None:
        if held is not self._is_held:
            self._is_held = held
            self._metrics.held += 1 if held else -1

    def _waited_s(self) -> float:
        return self._held_s + (0.0 if self._since is None else asyncio.get_running_loop().time() - self._since)


def _seconds(answer: EngineAnswer) -> float:
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) < 6:
            return float(value)
    return 1.0
