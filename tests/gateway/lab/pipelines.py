"""The way of a completion without a network: real stations, and in place of pods what the test says of an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from gateway.lab.exchanges import RecordingClient, a_request, a_writer
from topmast_gateway.activation.hold import Hold
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import SharingConfig, Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.fairness.dispatcher import Dispatcher
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.messages.request import Header
from topmast_gateway.observability.access_log import RequestRecord
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.requests.accounting import Accounting
from topmast_gateway.requests.pipeline import Pipeline
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Model, ModelTable, Pod
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.proxy import Proxy

Answer = Callable[[AnswerState, Model], Awaitable[None]]


class ScriptedProxy(Proxy):
    """Waits as the real one does, and answers as the test says."""

    answer: Answer

    async def forward(self, state: AnswerState, model: Model, hold: Hold) -> None:
        await self.answer(state, model)


@dataclass
class Way:
    """A pipeline, and what a test looks at."""

    pipeline: Pipeline
    accounting: Accounting
    dispatcher: Dispatcher
    backlog: Backlog
    cluster: ClusterState
    metrics: Metrics

    async def ask(
        self, caller: Caller, body: bytes | dict[str, Any], *headers: Header, client: RecordingClient | None = None
    ) -> RecordingClient:
        """One completion; what the pipeline raises, this raises."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        client = client or RecordingClient(sent)
        request = a_request(client, method="POST", path="/v1/completions", headers=headers)
        await self.pipeline.complete(caller, request, a_writer(client), RequestRecord(time.monotonic()))
        return client


def way(
    answer: Answer,
    places: Callable[[str, int], int] = lambda _model, running: 1000 - running,
    models: tuple[Model, ...] = (Model("ns", "m"),),
    timeouts: Timeouts | None = None,
    **sharing: Any,
) -> Way:
    """Each model has a pod, which nobody connects to. `places` is how many more requests a model can take."""
    loads, metrics, config = EndpointLoads(), Metrics(), SharingConfig(**sharing)
    picker = EndpointPicker(loads)
    cluster = ClusterState([], "system", "keys", loads, picker)
    cluster.routes = ModelTable(models, [Pod(one.key, one.namespace, "p", one.key, "127.0.0.1:1") for one in models])
    dispatcher, backlog = Dispatcher(places, config.queue_requests), Backlog("one")
    accounting = Accounting(config, "one", dispatcher.waiting)
    waker = Waker(None, metrics, SharedToken(), "")  # type: ignore[arg-type]
    proxy = ScriptedProxy(ConnectionPool(), cluster, picker, loads, metrics, timeouts or Timeouts(), backlog, waker)
    proxy.answer = answer
    overload = OverloadGuard(1000)
    pipeline = Pipeline(cluster, overload, accounting, dispatcher, backlog, proxy, metrics, isolates_caches=False)
    return Way(pipeline, accounting, dispatcher, backlog, cluster, metrics)
