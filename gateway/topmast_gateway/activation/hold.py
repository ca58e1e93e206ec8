"""One request's wait for a pod: how long it may last, whom to call meanwhile, and when waiting makes no sense.

A model that is up and has lost its pods is waited for as long as `patience` says; one that may sleep is called, and
waited for while the request has time. An answer that was begun waits in no line and is refused by no estimate.
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

_LOOK_AGAIN_S = 0.5  # while waiting; a pod's return is seen at once, the end of a suspicion within this time
_LONGEST_PAUSE_S = 5.0  # before a full engine is asked again
_HUMAN_RETRY_S = 60  # where a human has to act first

Notify = Callable[[str], Awaitable[None]]


class Hold:
    """Its clock runs from the first trouble to the next progress. `tell` is given a sentence while it waits."""

    def __init__(
        self,
        errand: AnswerState,
        patience: Timeouts,
        fleet: ClusterState,
        hall: HoldQueue,
        backlog: Backlog,
        waker: Waker,
        metrics: Metrics,
        tell: Notify,
    ) -> None:
        self._errand = errand
        self._patience = patience
        self._fleet = fleet
        self._hall = hall
        self._backlog = backlog
        self._waker = waker
        self._metrics = metrics
        self._tell = tell
        self._since: float | None = None  # loop time since when there was nobody to ask
        self._ticket: HoldTicket | None = None

    def begins(self) -> None:
        """Start the clock, if it does not run yet."""
        if self._since is None:
            self._since = asyncio.get_running_loop().time()

    def begins_anew(self) -> None:
        """The answer has made progress: what was waited before no longer counts."""
        self._since = None

    def left_s(self, model: Model) -> float:
        """Seconds for which the request may still wait."""
        own_s, patience = self._errand.time_left_s(), self._patience
        longest_s = patience.hold
        if self._errand.begun:
            longest_s = patience.hold_begun
        elif model.sleeps and own_s is not None:
            longest_s = own_s + self._waited_s()
        elif model.sleeps and self._errand.ask.stream:
            longest_s = patience.answer  # comments keep its connection alive, and tell what it waits for
        left_s = longest_s - self._waited_s()
        return left_s if own_s is None else min(left_s, own_s)

    async def for_a_pod(self, route: Callable[[], Route]) -> None:
        """Return when the route has a usable pod; an ApiError when nobody will start one, or not in time."""
        self.begins()
        if self._errand.begun:
            await self._until_there_is_one(route)
            return
        self._ticket = self._ticket or self._hall.ticket(self._errand.model, len(self._errand.ask.body))
        with self._place(self._ticket, route()):
            await self._until_there_is_one(route)
            await self._hall.turn(self._ticket)

    async def for_room(self, full: EngineAnswer, route: Route) -> bool:
        """After a wait: let the first pod work off those who came before. False when there is no time, or no herd."""
        pause_s = min(_seconds(full), _LONGEST_PAUSE_S)
        if self._ticket is None or pause_s >= self.left_s(route.model):
            return False
        with self._place(self._ticket, route):
            await self._tell(f"waiting for room on {self._fleet.routes.public_name(route.model)}")
            await asyncio.sleep(pause_s)
            await self._hall.turn(self._ticket)
        return True

    def nobody(self, route: Route) -> ApiError:
        """503 at the end of the wait."""
        name, outlook = self._fleet.routes.public_name(route.model), self._waker.outlook(route.model)
        if route.model.sleeps:
            return too_late(name, outlook)
        message = f"no pod of the model {name} is ready; waited {self._waited_s():.0f} s, try again soon"
        return unavailable("no_ready_pod", message, retry_after(outlook))

    @contextmanager
    def _place(self, ticket: HoldTicket, route: Route) -> Iterator[None]:
        """Among those who wait, for as long as the block runs."""
        errand = self._errand
        with (
            self._backlog.waiting(errand.model, errand.ask),
            self._hall.enter(ticket, self._waker.outlook(route.model)),
        ):
            yield

    async def _until_there_is_one(self, route: Callable[[], Route]) -> None:
        self._metrics.held += 1
        try:
            while not self._fleet.usable(now := route()):
                await self._a_moment(now)
        finally:
            self._metrics.held -= 1

    async def _a_moment(self, route: Route) -> None:
        model = route.model
        if model.suspended:
            message = f"the model {model.key} is suspended: unset spec.suspend of its LLMDeployment"
            raise unavailable("model_suspended", message, _HUMAN_RETRY_S)
        if model.outlook.stalled and not self._errand.begun:
            message = f"the model {model.key} cannot start: its LLMDeployment's condition Stalled says why"
            raise unavailable("model_stalled", message, _HUMAN_RETRY_S)
        if model.sleeps:
            await self._waker.call(model.key)
        left_s, outlook = self.left_s(model), self._waker.outlook(model)
        hopeless = model.sleeps and not self._errand.begun and (outlook.eta_s() or 0.0) > left_s
        if left_s <= 0 or hopeless:
            raise self.nobody(route)
        await self._fleet.news(min(left_s, _LOOK_AGAIN_S))
        doing = f": {outlook.text()}" if outlook.phase else ""
        await self._tell(f"waiting for a pod of {self._fleet.routes.public_name(model)}{doing}")

    def _waited_s(self) -> float:
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since


def _seconds(answer: EngineAnswer) -> float:
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) < 6:
            return float(value)
    return 1.0
