"""Carries one request to a pod and the answer back, over as many tries as its journey allows.

Until the first byte reaches the client everything can be tried again; from then on relay.py has the word. Nothing is
written down: a gateway that restarts has lost nothing but its open connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from topmast_gateway.errors import Refusal
from topmast_gateway.fleet import Fleet
from topmast_gateway.headers import towards_client, towards_engine
from topmast_gateway.journey import Journey
from topmast_gateway.metrics import Metrics
from topmast_gateway.pick import Loads
from topmast_gateway.relay import Torn, relay
from topmast_gateway.reply import Reply
from topmast_gateway.request import Ask
from topmast_gateway.routes import Pod
from topmast_gateway.upstream import Answer, Miss, is_stream, posted, whole, why_503

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds."""

    hold: float = 10.0  # for a pod, when there is none
    progress: float = 120.0  # for the first byte of a stream, and between two
    answer: float = 1200.0  # for an answer that is not streamed: it shows no progress before it is whole


class Proxy:
    """Sends requests to pods."""

    def __init__(
        self, client: aiohttp.ClientSession, fleet: Fleet, loads: Loads, metrics: Metrics, patience: Patience
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._loads = loads
        self._metrics = metrics
        self._patience = patience

    async def forward(self, ask: Ask, model: str, headers: Mapping[bytes, bytes], reply: Reply) -> None:
        """Answer by one of the model's pods; a Refusal when none can. `model` is its key."""
        journey = Journey(model, self._fleet, self._loads, self._metrics, self._patience.hold)
        passed = towards_engine(headers, reply.request_id)
        while True:
            stop = await journey.next_stop()
            if isinstance(stop, Answer):
                await _hand_on(stop, reply)
                return
            try:
                with self._loads.sending(stop, ask.tokens):
                    await self._try(stop, ask, model, passed, reply)
                return
            except Miss as miss:
                log.info("%s: pod %s: %s: %s", reply.request_id, stop.name, miss.kind, miss)
                journey.missed(stop, miss)

    async def _try(self, pod: Pod, ask: Ask, model: str, headers: dict[str, str], reply: Reply) -> None:
        patience = self._patience.progress if ask.stream else self._patience.answer
        try:
            async with asyncio.timeout(patience) as clock, posted(self._client, pod, ask, headers) as response:
                if is_stream(response):
                    clock.reschedule(None)  # relay has its own, which every byte moves
                    await relay(response, reply, self._patience.progress)
                    return
                answer = await whole(response)
        except TimeoutError:
            self._metrics.upstream_errors.labels(model, "timeout").inc()
            message = f"the model did not begin to answer within {patience:.0f} s; ask for a shorter answer"
            raise Refusal(504, "upstream_timeout", message, kind="server_error") from None
        except Torn as torn:
            self._metrics.upstream_errors.labels(model, "torn").inc()
            log.warning("%s: the stream from pod %s ended early: %s", reply.request_id, pod.name, torn)
            return
        if answer.status == 503:
            raise why_503(answer)
        await _hand_on(answer, reply)


async def _hand_on(answer: Answer, reply: Reply) -> None:
    await reply.whole(answer.status, answer.body, towards_client(answer.headers))
