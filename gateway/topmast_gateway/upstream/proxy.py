"""Carries one request to a pod and the answer back, over as many tries as its journey allows.

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
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Pod
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.attempt import Attempts, send_answer
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.failures import TokenRejected, UpstreamFailure
from topmast_gateway.upstream.retry_policy import RetryBudget, RetryPolicy

log = logging.getLogger(__name__)

_TELL_AFTER_S, _TELL_EVERY_S = 3.0, 1.0


class Proxy:
    """Sends requests to pods."""

    def __init__(
        self,
        engines: ConnectionPool,
        fleet: ClusterState,
        picker: EndpointPicker,
        metrics: Metrics,
        patience: Timeouts,
        hall: HoldQueue,
        backlog: Backlog,
        waker: Waker,
    ) -> None:
        self._fleet = fleet
        self._picker = picker
        self._metrics = metrics
        self._patience = patience
        self._hall = hall
        self._backlog = backlog
        self._waker = waker
        self._attempts = Attempts(engines, metrics, patience)
        self._retries = RetryBudget()
        self._complained_of: set[str] = set()  # pods that do not let us in

    async def forward(
        self,
        ask: CompletionRequest,
        model: str,
        headers: Mapping[bytes, bytes],
        reply: ResponseWriter,
        tally: TokenUsage,
    ) -> None:
        """Answer by the model's pods; an ApiError when none can. `model` is its key; `tally` is told what it takes."""
        errand = AnswerState(ask, model, headers, reply, tally, self._metrics.gap.labels(model).observe)
        self._retries.earn()
        tell = _Waiting(errand).tell
        wait = Hold(errand, self._patience, self._fleet, self._hall, self._backlog, self._waker, self._metrics, tell)
        journey = RetryPolicy(errand, self._fleet, self._picker, self._metrics, self._retries, wait)
        stamps = reply.stamps
        while True:
            stop = await journey.next_stop()
            if isinstance(stop, EngineAnswer):
                await send_answer(stop, reply)
                return
            made = errand.made
            reply.pod, reply.tries = stop.pod.name, reply.tries + 1
            if headers.get(b"x-topmast-debug") == b"1":
                reply.stamps = (*stamps, stop.header())
            try:
                with self._picker.sending(stop, ask) as credit:
                    await self._attempts.at(AttemptResult(stop.pod, credit, self._fleet.outliers), errand)
                return
            except UpstreamFailure as miss:
                log.info("%s: pod %s: %s: %s", reply.request_id, stop.pod.name, miss.kind, miss)
                if isinstance(miss, TokenRejected):
                    self._complain(stop.pod, miss)
                errand.broke()
                journey.missed(stop.pod, miss, progressed=errand.made > made)

    def _complain(self, pod: Pod, miss: TokenRejected) -> None:
        """Once for each pod: the next requests would say nothing else."""
        self._complained_of &= {one.uid for one in self._fleet.pods()} | {pod.uid}
        if pod.uid not in self._complained_of:
            self._complained_of.add(pod.uid)
            remedy = "the public half of --signing-key must be in the access file of its engine, and the clocks alike"
            log.warning("pod %s of %s does not let this gateway in (%s): %s", pod.name, pod.model, miss, remedy)


class _Waiting:
    """Tells who waits for a stream that there is still somebody there, and why it takes so long."""

    def __init__(self, errand: AnswerState) -> None:
        self._errand = errand
        self._since = time.monotonic()

    async def tell(self, text: str) -> None:
        """Called while there is no pod, more often than anybody wants to hear."""
        errand, reply = self._errand, self._errand.reply
        patience_s = _TELL_AFTER_S if reply.status is None else _TELL_EVERY_S
        if errand.ask.stream and reply.quiet_s() >= patience_s:
            await reply.comment(text)
