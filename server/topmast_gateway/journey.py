"""Where a request goes next: a pod it has not tried, the same pod again, a wait, or the end.

Holds the memory of one request's misses, and nothing longer than that. The rules, in order:
another pod first; an engine that is full answers for itself, unless the answer was begun or the request has waited for
this pod with others; a request that may have run is worth two more tries, and as many again after every token that came
of them; without a pod that can be reached the request waits for one.
"""

from __future__ import annotations

import asyncio

from topmast_gateway.engines import CONNECT_S
from topmast_gateway.errand import Errand
from topmast_gateway.errors import Refusal
from topmast_gateway.fleet import Fleet
from topmast_gateway.metrics import Metrics
from topmast_gateway.misses import Answer, Full, Miss
from topmast_gateway.pick import Choice, Picker
from topmast_gateway.retries import RetryBudget
from topmast_gateway.routes import Pod, Route
from topmast_gateway.wait import Wait

MAX_SENDS = 3  # without a new token, of a request that may have run: one that kills its engine must not kill them all
MAX_MOVES = 32  # of one answer
_PAUSE_S, _FULL_PAUSE_S = 0.05, 0.25


class Journey:
    """One request's way to the end of its answer."""

    def __init__(
        self, errand: Errand, fleet: Fleet, picker: Picker, metrics: Metrics, retries: RetryBudget, wait: Wait
    ) -> None:
        self._errand = errand
        self._model = errand.model
        self._fleet = fleet
        self._picker = picker
        self._metrics = metrics
        self._retries = retries
        self._wait = wait
        self._tried: set[str] = set()
        self._sends = self._moves = 0
        self._last: Miss | None = None
        self._full: Full | None = None

    async def next_stop(self) -> Choice | Answer:
        """The pod to try, or the engine's own refusal to hand on; a Refusal when it ends here."""
        while True:
            route = self._route()
            usable = self._fleet.usable(route)
            if self._sends >= MAX_SENDS or self._moves > MAX_MOVES:
                return self._give_up()
            if fresh := [pod for pod in usable if pod.uid not in self._tried]:
                return self._pick(route, fresh)
            if usable and self._full and not self._errand.begun:
                if not await self._wait.for_room(self._full.answer, route):
                    return self._full.answer
                self._full = None
                self._tried.clear()
                continue
            if usable:
                self._tried.clear()
                await asyncio.sleep(_FULL_PAUSE_S if self._full else _PAUSE_S)
                return self._pick(route, usable)
            await self._wait.for_a_pod(self._route)

    def missed(self, pod: Pod, miss: Miss, *, progressed: bool) -> None:
        """Remember a try that did not finish the answer; `progressed` where it made some of it."""
        kinds = self._metrics.moves if self._errand.begun else self._metrics.retries
        kinds.labels(self._model, miss.kind).inc()
        if progressed:
            self._moves += 1
            self._sends = 0
            self._tried.clear()
            self._full = None
            self._wait.begins_anew()
        self._last = miss
        self._tried.add(pod.uid)
        if miss.ran:
            may_go_on = self._errand.begun or self._retries.spend()
            self._sends = self._sends + 1 if may_go_on else MAX_SENDS
        if miss.broken:
            self._fleet.outliers.failed(pod)
        if miss.suspect_s:
            self._fleet.suspect(pod, miss.suspect_s)
        if miss.suspect_s or isinstance(miss, Full):
            self._wait.begins()
        if isinstance(miss, Full):
            self._full = miss
            self._picker.was_full(pod)

    def _pick(self, route: Route, pods: list[Pod]) -> Choice:
        choice = self._picker.choose(route, pods, self._errand.ask)
        self._fleet.outliers.sent(choice.pod)
        self._metrics.routed.labels(self._model, choice.reason).inc()
        return choice

    def _route(self) -> Route:
        if (route := self._fleet.routes.by_key(self._model)) is None:
            raise Refusal(404, "model_not_found", f"the model {self._model} was just deleted", param="model")
        if self._wait.left_s(route.model) < -CONNECT_S:
            raise self._wait.nobody(route)
        return route

    def _give_up(self) -> Answer:
        if isinstance(self._last, Full):
            return self._last.answer
        message = "the model's servers broke the connection before they answered; ask again"
        if self._errand.begun:
            message = "the model's servers broke off this answer again and again, and it is not complete; ask again"
        raise Refusal(502, "upstream_lost", message, kind="server_error")
