"""Where a request goes next: a pod it has not tried, the same pod again, a wait, or the end.

Holds the memory of one request's misses, and nothing longer than that. The rules, in order:
another pod first; an engine that is full answers for itself; a lost connection is worth two more tries; without a pod
that can be reached the request waits for one.
"""

from __future__ import annotations

import asyncio

from topmast_gateway.errors import Refusal, unavailable
from topmast_gateway.fleet import Fleet
from topmast_gateway.metrics import Metrics
from topmast_gateway.pick import Loads
from topmast_gateway.routes import Pod, Route
from topmast_gateway.upstream import CONNECT_S, Answer, Full, Miss

MAX_SENDS = 3  # of a request that may have run: one that kills its engine must not kill them all
_PAUSE_S = 0.05
_LOOK_AGAIN_S = 0.5  # while waiting; a pod's return is seen at once, the end of a suspicion within this time
_RETRY_AFTER_S = 5


class Journey:
    """One request's way to an answer, before its first byte."""

    def __init__(self, model: str, fleet: Fleet, loads: Loads, metrics: Metrics, hold_s: float) -> None:
        self.model = model
        self._fleet = fleet
        self._loads = loads
        self._metrics = metrics
        self._hold_s = hold_s
        self._tried: set[str] = set()
        self._sends = 0
        self._last: Miss | None = None
        self._full: Full | None = None
        self._deadline: float | None = None  # loop time until which a pod may turn up

    async def next_stop(self) -> Pod | Answer:
        """The pod to try, or the engine's own refusal to hand on; a Refusal when it ends here."""
        while True:
            route = self._route()
            usable = self._fleet.usable(route)
            if self._sends >= MAX_SENDS:
                return self._give_up()
            if fresh := [pod for pod in usable if pod.uid not in self._tried]:
                return self._loads.least(fresh)
            if usable and self._full:
                return self._full.answer
            if usable:
                self._tried.clear()
                await asyncio.sleep(_PAUSE_S)
                return self._loads.least(usable)
            await self._hold(route)

    def missed(self, pod: Pod, miss: Miss) -> None:
        """Remember a try that gave nothing."""
        self._metrics.retries.labels(self.model, miss.kind).inc()
        self._last = miss
        self._tried.add(pod.uid)
        if miss.suspect_s:
            self._fleet.suspect(pod, miss.suspect_s)
            self._patience_starts()
        else:
            self._sends += 1
        if isinstance(miss, Full):
            self._full = miss

    def _route(self) -> Route:
        now = asyncio.get_running_loop().time()
        if (route := self._fleet.routes.by_key(self.model)) is None:
            raise Refusal(404, "model_not_found", f"the model {self.model} was just deleted", param="model")
        if self._deadline is not None and now > self._deadline + CONNECT_S:
            raise self._nobody(route)
        return route

    async def _hold(self, route: Route) -> None:
        """Wait for news, but not beyond the deadline and not for a model that nobody will start."""
        if route.model.suspended:
            message = f"the model {self.model} is suspended: unset spec.suspend of its LLMDeployment"
            raise unavailable("model_suspended", message, 60)
        left_s = self._patience_starts() - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise self._nobody(route)
        self._metrics.held += 1
        try:
            await self._fleet.news(min(left_s, _LOOK_AGAIN_S))
        finally:
            self._metrics.held -= 1

    def _patience_starts(self) -> float:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._hold_s
        return self._deadline

    def _give_up(self) -> Answer:
        if isinstance(self._last, Full):
            return self._last.answer
        message = f"the model's servers broke the connection {self._sends} times before they answered; ask again"
        raise Refusal(502, "upstream_lost", message, kind="server_error")

    def _nobody(self, route: Route) -> Refusal:
        name = self._fleet.routes.public_name(route.model)
        message = f"no pod of the model {name} is ready; waited {self._hold_s:.0f} s, try again soon"
        return unavailable("no_ready_pod", message, _RETRY_AFTER_S)
