"""Carries one request to a pod and the answer back, over as many tries as its journey allows.

An answer with a journal can be finished by another pod at any point; without one everything can be tried again until
its first byte. Nothing is written down: a gateway that restarts has lost nothing but its open connections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from topmast_gateway.attempt import Attempts, hand_on
from topmast_gateway.backlog import Backlog
from topmast_gateway.engines import Engines
from topmast_gateway.errand import Errand
from topmast_gateway.fleet import Fleet
from topmast_gateway.hall import Hall
from topmast_gateway.journey import Journey
from topmast_gateway.metrics import Metrics
from topmast_gateway.misses import Answer, Miss, NotLetIn
from topmast_gateway.patience import Patience
from topmast_gateway.pick import Picker
from topmast_gateway.reply import Reply
from topmast_gateway.request import Ask
from topmast_gateway.retries import RetryBudget
from topmast_gateway.routes import Pod
from topmast_gateway.tally import Tally
from topmast_gateway.trial import Trial
from topmast_gateway.wait import Wait
from topmast_gateway.waking import Waker

log = logging.getLogger(__name__)

_TELL_AFTER_S, _TELL_EVERY_S = 3.0, 1.0


class Proxy:
    """Sends requests to pods."""

    def __init__(
        self,
        engines: Engines,
        fleet: Fleet,
        picker: Picker,
        metrics: Metrics,
        patience: Patience,
        hall: Hall,
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

    async def forward(self, ask: Ask, model: str, headers: Mapping[bytes, bytes], reply: Reply, tally: Tally) -> None:
        """Answer by the model's pods; a Refusal when none can. `model` is its key; `tally` is told what it takes."""
        errand = Errand(ask, model, headers, reply, tally, self._metrics.gap.labels(model).observe)
        self._retries.earn()
        tell = _Waiting(errand).tell
        wait = Wait(errand, self._patience, self._fleet, self._hall, self._backlog, self._waker, self._metrics, tell)
        journey = Journey(errand, self._fleet, self._picker, self._metrics, self._retries, wait)
        stamps = reply.stamps
        while True:
            stop = await journey.next_stop()
            if isinstance(stop, Answer):
                await hand_on(stop, reply)
                return
            made = errand.made
            reply.pod, reply.tries = stop.pod.name, reply.tries + 1
            if headers.get(b"x-topmast-debug") == b"1":
                reply.stamps = (*stamps, stop.header())
            try:
                with self._picker.sending(stop, ask) as credit:
                    await self._attempts.at(Trial(stop.pod, credit, self._fleet.outliers), errand)
                return
            except Miss as miss:
                log.info("%s: pod %s: %s: %s", reply.request_id, stop.pod.name, miss.kind, miss)
                if isinstance(miss, NotLetIn):
                    self._complain(stop.pod, miss)
                errand.broke()
                journey.missed(stop.pod, miss, progressed=errand.made > made)

    def _complain(self, pod: Pod, miss: NotLetIn) -> None:
        """Once for each pod: the next requests would say nothing else."""
        self._complained_of &= {one.uid for one in self._fleet.pods()} | {pod.uid}
        if pod.uid not in self._complained_of:
            self._complained_of.add(pod.uid)
            remedy = "the public half of --signing-key must be in the access file of its engine, and the clocks alike"
            log.warning("pod %s of %s does not let this gateway in (%s): %s", pod.name, pod.model, miss, remedy)


class _Waiting:
    """Tells who waits for a stream that there is still somebody there, and why it takes so long."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._since = time.monotonic()

    async def tell(self, text: str) -> None:
        """Called while there is no pod, more often than anybody wants to hear."""
        errand, reply = self._errand, self._errand.reply
        patience_s = _TELL_AFTER_S if reply.status is None else _TELL_EVERY_S
        if errand.ask.stream and reply.quiet_s() >= patience_s:
            await reply.comment(text)
