"""Carries one request to a pod and the answer back, over as many attempts as the retry policy allows.

An answer with a journal can be finished by another pod at any point; without one everything can be tried again until
its first byte. Nothing is written down: a gateway that restarts has lost nothing but its open connections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from topmast_gateway.activation.hold import Hold
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.errors import ModelUnavailable
from topmast_gateway.messages.response import EngineAnswer
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Model, Pod
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.attempt import Attempts, send_answer
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.failures import TokenRejected, UpstreamFailure
from topmast_gateway.upstream.retry_policy import RetryBudgets, RetryPolicy

log = logging.getLogger(__name__)


class Proxy:
    """Sends requests to pods."""

    def __init__(
        self,
        pool: ConnectionPool,
        cluster: ClusterState,
        picker: EndpointPicker,
        loads: EndpointLoads,
        metrics: Metrics,
        timeouts: Timeouts,
        backlog: Backlog,
        waker: Waker,
    ) -> None:
        self._cluster = cluster
        self._picker = picker
        self._metrics = metrics
        self._timeouts = timeouts
        self._backlog = backlog
        self._waker = waker
        self._attempts = Attempts(pool, loads, metrics)
        self._retries = RetryBudgets()
        self._complained_of: set[str] = set()  # pods that do not let us in

    def hold(self, state: AnswerState, model: Model, fallback_is_ready: Callable[[], bool]) -> Hold:
        """How this request may wait for a pod of the model."""
        timeouts = self._timeouts.of(model)
        return Hold(state, timeouts, self._cluster, self._backlog, self._waker, self._metrics, fallback_is_ready)

    async def forward(self, state: AnswerState, model: Model, hold: Hold) -> None:
        """Answer by the model's pods; an ApiError when none can, ModelUnavailable where another model might."""
        retries, writer = self._retries.of(model.key), state.writer
        retries.earn()
        policy = RetryPolicy(state, self._cluster, self._picker, self._metrics, retries, hold, model.retries)
        while True:
            step = await policy.next_step()
            if isinstance(step, EngineAnswer):
                if step.status >= 500 and not state.started and hold.fallback_is_ready():
                    raise ModelUnavailable(step.status, "upstream_error", f"an engine answered {step.status}")
                send_answer(step, writer)
                return
            tokens_kept = state.tokens_kept
            writer.pod, writer.revision, writer.tries = step.pod.name, step.pod.revision, writer.tries + 1
            if writer.shows_route:
                writer.route = step.header()
            try:
                with self._picker.sending(step, state.request) as in_flight:
                    result = AttemptResult(step.pod, in_flight, self._cluster.outliers)
                    await self._attempts.at(result, state, hold.timeouts)
                return
            except UpstreamFailure as failure:
                log.info("%s: pod %s: %s: %s", writer.request_id, step.pod.name, failure.kind, failure)
                if isinstance(failure, TokenRejected):
                    self._complain(step.pod, failure)
                state.interrupted()
                policy.attempt_failed(step.pod, failure, progressed=state.tokens_kept > tokens_kept)

    def _complain(self, pod: Pod, failure: TokenRejected) -> None:
        """Once for each pod: the next requests would say nothing else."""
        self._complained_of &= {one.uid for one in self._cluster.pods()} | {pod.uid}
        if pod.uid not in self._complained_of:
            self._complained_of.add(pod.uid)
            remedy = "the public half of --signing-key must be in the access file of its engine, and the clocks alike"
            log.warning("pod %s of %s does not let this gateway in (%s): %s", pod.name, pod.model, failure, remedy)
