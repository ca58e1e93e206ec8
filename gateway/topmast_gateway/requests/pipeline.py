"""The way of a completion from its head to its last byte: every station, in order.

Each station may refuse, and what it holds it gives back when the request ends, however it does.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence

import msgspec

from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.fairness.dispatcher import Dispatcher, QueueRequest
from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.messages.completion import CompletionRequest, with_field
from topmast_gateway.messages.errors import ApiError, ModelUnavailable
from topmast_gateway.messages.interruption import Interruption
from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.observability.access_log import RequestRecord
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.requests.accounting import Accounting, Service
from topmast_gateway.requests.body import read_body
from topmast_gateway.requests.deadline_priority import deadline_of, effective_priority, is_retry, with_priority
from topmast_gateway.requests.large_bodies import LARGE_BYTES, LargeBodies
from topmast_gateway.requests.open_requests import OpenRequests
from topmast_gateway.requests.parse import parse_completion
from topmast_gateway.requests.usage_report import usage_report
from topmast_gateway.requests.visible_models import VisibleModels
from topmast_gateway.routing.model_table import Model, Route
from topmast_gateway.upstream.proxy import Proxy


class Pipeline:
    """`isolates_caches`: no caller's requests are served from what another one's have left in an engine's cache."""

    def __init__(
        self,
        cluster: ClusterState,
        overload: OverloadGuard,
        accounting: Accounting,
        dispatcher: Dispatcher,
        backlog: Backlog,
        proxy: Proxy,
        metrics: Metrics,
        *,
        isolates_caches: bool = True,
    ) -> None:
        self._cluster = cluster
        self._overload = overload
        self._accounting = accounting
        self._dispatcher = dispatcher
        self._backlog = backlog
        self._proxy = proxy
        self._metrics = metrics
        self._isolates_caches = isolates_caches
        self._large_bodies = LargeBodies()
        self.open_requests = OpenRequests()

    async def complete(self, caller: Caller, http: Request, writer: ResponseWriter, record: RequestRecord) -> None:
        """Answer a completion request; an ApiError where a station refuses it."""
        if http.headers.get(b"content-encoding", b"identity") != b"identity":
            raise ApiError(415, "unsupported_encoding", "the body must not be compressed: leave out Content-Encoding")
        writer.shows_route = caller.debug and http.headers.get(b"x-topmast-debug") == b"1"
        with self._overload.admit(caller.name) as place:
            with self._accounting.quota.arriving(caller):
                body = await read_body(http, place.grow)
                request = await self._parsed(caller, http, body)
            models = VisibleModels(self._cluster.routes, caller)
            route = models.find(request.model)
            record.model = route.model.key
            request = self._accounting.estimates.refined(request, record.model)
            priority = effective_priority(request, caller.priority)
            request = with_priority(request, priority)
            with (
                self._accounting.charged(caller, request, writer, record) as service,
                Interruption(http.incoming) as interruption,
                self.open_requests.of(caller, interruption),
            ):
                await self._by_first_that_can(
                    [route, *models.fallbacks(route)], _Work(caller, request, priority, http, writer, record, service)
                )

    def usage(self, caller: Caller) -> bytes:
        """What the caller has used, as JSON."""
        return usage_report(caller, self._accounting.quota)

    async def _parsed(self, caller: Caller, http: Request, body: bytearray) -> CompletionRequest:
        tenant = caller.name if self._isolates_caches else ""
        session = http.headers.get(b"x-session-id", b"")

        def parse() -> CompletionRequest:
            return parse_completion(http.path, body, session, tenant)

        return parse() if len(body) < LARGE_BYTES else await self._large_bodies.parsed(caller.name, parse)

    async def _by_first_that_can(self, routes: Sequence[Route], work: _Work) -> None:
        """The model that was asked for, else the first of its fallbacks that can answer; else its own refusal."""
        first: ModelUnavailable | None = None
        for number, route in enumerate(routes):
            later = [other.model.key for other in routes[number + 1 :]]
            try:
                await self._by(route.model, work, later)
                return
            except ModelUnavailable as refusal:
                first = first or refusal
                if work.writer.answered_at is not None or not later:
                    raise first from None
                self._metrics.fallbacks.labels(routes[0].model.key, later[0], refusal.code).inc()

    async def _by(self, model: Model, work: _Work, fallbacks: Sequence[str]) -> None:
        """Wait for a slot at this model, and have one of its pods answer."""
        work.record.model = model.key
        request = _named(work.request, model)
        state = AnswerState(
            request,
            model.key,
            work.http.headers,
            work.writer,
            work.record.usage,
            work.deadline,
            self._metrics.observe_gap,
        )
        wanted = QueueRequest(work.caller, work.priority, request.prompt, len(request.body))
        with (
            self._proxy.hold(state, model, lambda: any(map(self._has_pod, fallbacks))) as hold,
            self._backlog.waiting(model.key, request, again=is_retry(work.http.headers)) as waiting,
            await self._dispatcher.slot(model.key, wanted, work.record.usage, hold) as work.service.queued_s,
        ):
            waiting.served()
            work.service.began_at = time.monotonic()
            try:
                await self._proxy.forward(state, model, hold)
            finally:
                self._observe(state, work)

    def _observe(self, state: AnswerState, work: _Work) -> None:
        """What canaries and dashboards judge a revision by; nothing of an answer without a first token."""
        if (first_at := state.first_token_at) is None:
            return
        histograms, labels, now = self._metrics.latency, (state.model, work.writer.revision), time.monotonic()
        histograms.queue.observe(labels, work.service.queued_s)
        histograms.first_token.observe(labels, first_at - work.record.arrived_at)
        if (further := work.record.usage.output - 1) > 0:
            histograms.per_token.observe(labels, (now - first_at) / further)

    def _has_pod(self, key: str) -> bool:
        route = self._cluster.routes.by_key(key)
        return route is not None and bool(self._cluster.usable(route))


@dataclasses.dataclass(slots=True)
class _Work:
    """One request, as every model that may answer it gets it."""

    caller: Caller
    request: CompletionRequest
    priority: Priority
    http: Request
    writer: ResponseWriter
    record: RequestRecord
    service: Service
    deadline: float | None = None

    def __post_init__(self) -> None:
        self.deadline = deadline_of(self.request, self.http.headers, self.record.arrived_at)


def _named(request: CompletionRequest, model: Model) -> CompletionRequest:
    """The request by a name that the model's engines know: they know no aliases."""
    if request.model in (model.name, model.key):
        return request
    return msgspec.structs.replace(request, body=with_field(request.body, "model", json.dumps(model.key).encode()))
