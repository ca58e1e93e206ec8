"""Calls the operator for a model that sleeps: once per model and few seconds, however many requests wait for it.

A call that fails is repeated while somebody waits, and is no error to a client: without an operator everything is as
if no model could be woken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.model_status import ModelStatus
from topmast_gateway.routing.model_table import Model

EVERY_S = 3.0
_TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=2)
_WAIT_S = 1.0  # of a request, for the answer to a call: a pod may turn up meanwhile
_FRESH_S = 10.0  # an answer says more than a status that still says asleep for so long

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _WakeState:
    """One model's calls. Times are monotonic, `due` is Unix seconds."""

    call: asyncio.Task[None] | None = None
    next_at: float = 0.0
    accepted_at: float = float("-inf")
    due: float | None = None
    result: str = ""


class Waker:
    """Without `operator_url` it calls nobody."""

    def __init__(
        self, client: aiohttp.ClientSession, metrics: Metrics, token: SharedToken, operator_url: str = ""
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._url = operator_url.rstrip("/")
        self._token = token
        self._states: dict[str, _WakeState] = {}

    async def call(self, model: str) -> None:
        """Have the model (`namespace/name`) woken. Returns with the answer, or a second later without it."""
        if not self._url:
            return
        state = self._states.setdefault(model, _WakeState())
        if state.call is None and time.monotonic() >= state.next_at:
            state.call = asyncio.create_task(self._call(model, state))
        if state.call:  # waited for, never cancelled: it is everybody's
            await asyncio.wait({state.call}, timeout=_WAIT_S)

    def status(self, model: Model) -> ModelStatus:
        """What to say to those who wait: the model's status, unless the operator's answer is newer."""
        state = self._states.get(model.key)
        if model.status.asleep and state and time.monotonic() - state.accepted_at < _FRESH_S:
            return ModelStatus("waking", due=state.due)
        return model.status

    async def _call(self, model: str, state: _WakeState) -> None:
        try:
            result, why = await self._post(model, state)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            result, why = "failed", f"{type(error).__name__}: {error}"
        finally:
            state.call, state.next_at = None, time.monotonic() + EVERY_S
        self._metrics.wake_calls.labels(model, result).inc()
        if result != state.result:  # once per change, not once per call
            level = logging.INFO if result == "accepted" else logging.WARNING
            log.log(level, "%s is called at the operator: %s%s", model, result, why and f": {why}")
            state.result = result

    async def _post(self, model: str, state: _WakeState) -> tuple[str, str]:
        async with self._client.post(
            f"{self._url}/wake/{model}", headers=self._token.header(), timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            body: dict[str, Any] = await answer.json()
            if answer.status != 202:
                return "refused", f"HTTP {answer.status}: {str(body['error'])[:300]}"
        eta_s = body["eta_s"]
        state.accepted_at = time.monotonic()
        state.due = None if eta_s is None else time.time() + float(eta_s)
        return "accepted", ""
