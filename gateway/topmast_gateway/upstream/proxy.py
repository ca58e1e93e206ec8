"""Carries one request to a pod and the answer back, over as many attempts as the retry policy allows.

An answer with a journal can be finished by another pod at any point; without one everything can be tried again until
its first byte. Nothing is written down: a gateway that restarts has lost nothing but its open connections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from topmast_gateway.activation.hold import Hold
from topmast_gateway.activation.hold_queue import HoldQueue
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.response import EngineAnswer, ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Pod
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.attempt import Attempts, send_answer
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.failures import TokenRejected, UpstreamFailure
from topmast_gateway.upstream.retry_policy import RetryBudgets, RetryPolicy

log = logging.getLogger(__name__)

_NOTIFY_AFTER_S, _NOTIFY_EVERY_S = 3.0, 1.0


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
        hold_queue: HoldQueue,
        backlog: Backlog,
        waker: Waker,
    ) -> None:
        self._cluster = cluster
        self._picker = picker
        self._metrics = metrics
        self._timeouts = timeouts
        self._hold_queue = hold_queue
        self._backlog = backlog
        self._waker = waker
        self._attempts = Attempts(pool, loads, metrics, timeouts)
        self._retries = RetryBudgets()
        self._complained_of: set[str] = set()  # pods that do not let us in

    async def forward(
        self,
        request: CompletionRequest,
        model: str,
        headers: Mapping[bytes, bytes],
        writer: ResponseWriter,
        usage: TokenUsage,
    ) -> None:
        """Answer by the model's pods; an ApiError when none can. `model` is its key; `usage` counts what it takes."""
        state = AnswerState(request, model, headers, writer, usage, self._metrics.gap.labels(model).observe)
        retries = self._retries.of(model)
        retries.earn()
        notify = _WaitNotifier(state).notify
        hold = Hold(
            state, self._timeouts, self._cluster, self._hold_queue, self._backlog, self._waker, self._metrics, notify
        )
        policy = RetryPolicy(state, self._cluster, self._picker, self._metrics, retries, hold)
        while True:
            step = await policy.next_step()
            if isinstance(step, EngineAnswer):
                send_answer(step, writer)
                return
            tokens_kept = state.tokens_kept
            writer.pod, writer.revision, writer.tries = step.pod.name, step.pod.revision, writer.tries + 1
            if writer.shows_route:
                writer.route = step.header()
            try:
                with self._picker.sending(step, request) as in_flight:
                    await self._attempts.at(AttemptResult(step.pod, in_flight, self._cluster.outliers), state)
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


class _WaitNotifier:
    """Tells who waits for a stream that there is still somebody there, and why it takes so long."""

    def __init__(self, state: AnswerState) -> None:
        self._state = state
        self._since = time.monotonic()

    async def notify(self, text: str) -> None:
        """Called while there is no pod, more often than anybody wants to hear."""
        state, writer = self._state, self._state.writer
        longest_wait_s = _NOTIFY_AFTER_S if writer.status is None else _NOTIFY_EVERY_S
        if state.request.stream and writer.idle_s() >= longest_wait_s:
            writer.comment(text)
