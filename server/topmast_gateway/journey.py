"""Where a request goes next: a pod it has not tried, the same pod again, a wait, or the end.

Holds the memory of one request's misses, and nothing longer than that. The rules, in order:
another pod first; an engine that is full answers for itself, unless the answer was begun; a request that may have run
is worth two more tries, and as many again after every token that came of them; without a pod that can be reached the
request waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from topmast_gateway.errand import Errand
from topmast_gateway.errors import Refusal, unavailable
from topmast_gateway.fleet import Fleet
from topmast_gateway.metrics import Metrics
from topmast_gateway.patience import Patience
from topmast_gateway.pick import Loads
from topmast_gateway.retries import RetryBudget
from topmast_gateway.routes import Pod, Route
from topmast_gateway.upstream import CONNECT_S, Answer, Full, Miss

MAX_SENDS = 3  # without a new token, of a request that may have run: one that kills its engine must not kill them all
MAX_MOVES = 32  # of one answer
_PAUSE_S, _FULL_PAUSE_S = 0.05, 0.25
_LOOK_AGAIN_S = 0.5  # while waiting; a pod's return is seen at once, the end of a suspicion within this time
_RETRY_AFTER_S = 5

Tell = Callable[[str], Awaitable[None]]


class Journey:
    """One request's way to the end of its answer. `tell` is given a sentence while there is nobody to ask."""

    def __init__(
        self,
        errand: Errand,
        fleet: Fleet,
        loads: Loads,
        metrics: Metrics,
        patience: Patience,
        retries: RetryBudget,
        tell: Tell,
    ) -> None:
        self._errand = errand
        self._model = errand.model
        self._fleet = fleet
        self._loads = loads
        self._metrics = metrics
        self._patience = patience
        self._retries = retries
        self._tell = tell
        self._tried: set[str] = set()
        self._sends = self._moves = 0
        self._last: Miss | None = None
        self._full: Full | None = None
        self._without_since: float | None = None  # loop time since when there was nobody to ask

    async def next_stop(self) -> Pod | Answer:
        """The pod to try, or the engine's own refusal to hand on; a Refusal when it ends here."""
        while True:
            route = self._route()
            usable = self._fleet.usable(route)
            if self._sends >= MAX_SENDS or self._moves > MAX_MOVES:
                return self._give_up()
            if fresh := [pod for pod in usable if pod.uid not in self._tried]:
                return self._loads.least(fresh)
            if usable and self._full and not self._errand.begun:
                return self._full.answer
            if usable:
                self._tried.clear()
                await asyncio.sleep(_FULL_PAUSE_S if self._full else _PAUSE_S)
                return self._loads.least(usable)
            await self._hold(route)

    def missed(self, pod: Pod, miss: Miss, *, progressed: bool) -> None:
        """Remember a try that did not finish the answer; `progressed` where it made some of it."""
        kinds = self._metrics.moves if self._errand.begun else self._metrics.retries
        kinds.labels(self._model, miss.kind).inc()
        if progressed:
            self._moves += 1
            self._sends = 0
            self._tried.clear()
            self._full = self._without_since = None
        self._last = miss
        self._tried.add(pod.uid)
        if miss.ran:
            may_go_on = self._errand.begun or self._retries.spend()
            self._sends = self._sends + 1 if may_go_on else MAX_SENDS
        if miss.suspect_s:
            self._fleet.suspect(pod, miss.suspect_s)
        if miss.suspect_s or isinstance(miss, Full):
            self._waited_s()  # begins to count
        if isinstance(miss, Full):
            self._full = miss

    def _route(self) -> Route:
        if (route := self._fleet.routes.by_key(self._model)) is None:
            raise Refusal(404, "model_not_found", f"the model {self._model} was just deleted", param="model")
        if self._without_since is not None and self._waited_s() > self._hold_s + CONNECT_S:
            raise self._nobody(route)
        return route

    async def _hold(self, route: Route) -> None:
        """Wait for news, but not beyond the limit and not for a model that nobody will start."""
        if route.model.suspended:
            message = f"the model {self._model} is suspended: unset spec.suspend of its LLMDeployment"
            raise unavailable("model_suspended", message, 60)
        left_s = self._hold_s - self._waited_s()
        if left_s <= 0:
            raise self._nobody(route)
        self._metrics.held += 1
        try:
            await self._fleet.news(min(left_s, _LOOK_AGAIN_S))
            await self._tell(f"waiting for a pod of {self._fleet.routes.public_name(route.model)}")
        finally:
            self._metrics.held -= 1

    @property
    def _hold_s(self) -> float:
        limit_s = self._patience.hold_begun if self._errand.begun else self._patience.hold
        left_s = self._errand.time_left_s()
        return limit_s if left_s is None else min(limit_s, self._waited_s() + max(0.0, left_s))

    def _waited_s(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._without_since is None:
            self._without_since = now
        return now - self._without_since

    def _give_up(self) -> Answer:
        if isinstance(self._last, Full):
            return self._last.answer
        message = "the model's servers broke the connection before they answered; ask again"
        if self._errand.begun:
            message = "the model's servers broke off this answer again and again, and it is not complete; ask again"
        raise Refusal(502, "upstream_lost", message, kind="server_error")

    def _nobody(self, route: Route) -> Refusal:
        name = self._fleet.routes.public_name(route.model)
        message = f"no pod of the model {name} is ready; waited {self._waited_s():.0f} s, try again soon"
        return unavailable("no_ready_pod", message, _RETRY_AFTER_S)
