"""Where a request goes next: a pod it has not tried, the same pod again, a wait, or the end.

Remembers the failures of one request, and nothing longer than that. The rules, in order: another pod first; an engine
that failed is believed the second time, or where no other pod is there, and its answer handed on; an engine that is
full answers for itself, unless the answer was started or the request has waited for a pod; a request that may have run
is worth as many more tries as its model allows, and a started answer at least two after every token that came of them;
without a pod that can be reached the request waits for one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from topmast_gateway.activation.hold import Hold
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.errors import ModelUnavailable
from topmast_gateway.messages.response import EngineAnswer
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.endpoint_picker import Choice, EndpointPicker
from topmast_gateway.routing.model_table import DEFAULT_RETRIES, Pod, Route
from topmast_gateway.upstream.connection_pool import CONNECT_S
from topmast_gateway.upstream.failures import EngineFailed, EngineFull, UpstreamFailure

MAX_MOVES = 32  # of one answer
_MAX_ERRORS = 2  # 5xx answers of engines, without a new token
_PAUSE_S, _FULL_PAUSE_S = 0.05, 0.25
_MOST_MODELS = 10_000


class RetryPolicy:
    """One request's way to the end of its answer."""

    def __init__(
        self,
        state: AnswerState,
        cluster: ClusterState,
        picker: EndpointPicker,
        metrics: Metrics,
        budget: RetryBudget,
        hold: Hold,
        retries: int,
    ) -> None:
        self._state = state
        self._model = state.model
        self._cluster = cluster
        self._picker = picker
        self._metrics = metrics
        self._budget = budget
        self._hold = hold
        self._retries = retries
        self._tried: set[str] = set()
        self._sends = self._moves = self._errors = 0
        self._is_too_much = False  # for the budget of retries
        self._last: UpstreamFailure | None = None
        self._full: EngineFull | None = None

    async def next_step(self) -> Choice | EngineAnswer:
        """The pod to try, or an engine's own answer to hand on; an ApiError when it ends here."""
        while True:
            route = self._route()
            usable = self._cluster.usable(route)
            if self._is_hopeless():
                return self._give_up()
            if fresh := [pod for pod in usable if pod.uid not in self._tried]:
                return self._pick(route, fresh)
            if isinstance(self._last, EngineFailed):
                return self._last.answer
            if usable and self._full and not self._state.started:
                if not await self._hold.until_pod_has_room(self._full.answer, route):
                    return self._full.answer
                self._full = None
                self._tried.clear()
                continue
            if usable:
                self._tried.clear()
                await asyncio.sleep(_FULL_PAUSE_S if self._full else _PAUSE_S)
                return self._pick(route, usable)
            await self._hold.until_pod_usable()

    def attempt_failed(self, pod: Pod, failure: UpstreamFailure, *, progressed: bool) -> None:
        """Remember a try that did not finish the answer; `progressed` where it generated some of it."""
        kinds = self._metrics.moves if self._state.started else self._metrics.retries
        kinds.labels(self._model, failure.kind).inc()
        if progressed:
            self._moves += 1
            self._sends = self._errors = 0
            self._tried.clear()
            self._full = None
            self._hold.reset_clock()
        if isinstance(failure, EngineFailed):
            self._errors += 1
        self._last = failure
        self._tried.add(pod.uid)
        if failure.may_have_run:
            self._sends += 1
            self._is_too_much = not (self._state.started or self._budget.spend())
        if failure.broken and self._errors < _MAX_ERRORS:  # two pods that fail speak against the request
            self._cluster.outliers.failed(pod)
        if failure.avoid_s:
            self._cluster.avoid(pod, failure.avoid_s)
        if failure.avoid_s or isinstance(failure, EngineFull):
            self._hold.start_clock()
        if isinstance(failure, EngineFull):
            self._full = failure
            self._picker.was_full(pod)

    def _is_hopeless(self) -> bool:
        """Whether it was sent often enough: without a new token, as a whole, or for its model's budget."""
        retries = max(self._retries, DEFAULT_RETRIES) if self._state.started else self._retries
        return self._is_too_much or self._sends > retries or self._moves > MAX_MOVES or self._errors >= _MAX_ERRORS

    def _pick(self, route: Route, pods: Sequence[Pod]) -> Choice:
        choice = self._picker.choose(route, pods, self._state.request)
        self._cluster.outliers.sent(choice.pod)
        self._metrics.routed.labels(self._model, choice.reason).inc()
        return choice

    def _route(self) -> Route:
        route = self._hold.route()
        if self._hold.left_s(route.model) < -CONNECT_S:
            raise self._hold.no_pod_error(route)
        return route

    def _give_up(self) -> EngineAnswer:
        if isinstance(self._last, EngineFull | EngineFailed):
            return self._last.answer
        message = "the model's servers broke the connection before they answered; ask again"
        if self._state.started:
            message = "the model's servers broke off this answer again and again, and it is not complete; ask again"
        raise ModelUnavailable(502, "upstream_lost", message, kind="server_error")


class RetryBudget:
    """A fifth of a second try for every request, saved up to `most`: one engine's death is paid for, a storm is not.

    Only tries that may have run count. A refused connection costs nobody anything, and an answer that was started has a
    limit of its own.
    """

    def __init__(self, share: float = 0.2, most: float = 100.0) -> None:
        self._share = share
        self._most = most
        self._left = most

    def earn(self) -> None:
        """A request has come."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether another try may be made; it is paid for."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RetryBudgets:
    """One for each model: what the engines of one cost touches no other. The least recent ones are dropped."""

    def __init__(self) -> None:
        self._budgets: OrderedDict[str, RetryBudget] = OrderedDict()

    def of(self, model: str) -> RetryBudget:
        """The budget of this model."""
        if (budget := self._budgets.get(model)) is None:
            budget = self._budgets[model] = RetryBudget()
        self._budgets.move_to_end(model)
        if len(self._budgets) > _MOST_MODELS:
            self._budgets.popitem(last=False)
        return budget
