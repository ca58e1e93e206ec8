"""Calls the operator for a model that sleeps: once per model and few seconds, however many requests wait for it.

A call that fails is made again while somebody waits, and is no error to a client: without an operator everything is as
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
_FRESH_S = 10.0  # an answer tells more than a status that still says asleep for so long

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Line:
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
        self._lines: dict[str, _Line] = {}

    async def call(self, model: str) -> None:
        """Have the model (`namespace/name`) woken. Returns with the answer, or a second later without it."""
        if not self._url:
            return
        line = self._lines.setdefault(model, _Line())
        if line.call is None and time.monotonic() >= line.next_at:
            line.call = asyncio.create_task(self._call(model, line))
        if line.call:  # waited for, never cancelled: it is everybody's
            await asyncio.wait({line.call}, timeout=_WAIT_S)

    def status(self, model: Model) -> ModelStatus:
        """What to tell those who wait: the model's status, unless the operator's answer is newer."""
        line = self._lines.get(model.key)
        if model.status.asleep and line and time.monotonic() - line.accepted_at < _FRESH_S:
            return ModelStatus("waking", due=line.due)
        return model.status

    async def _call(self, model: str, line: _Line) -> None:
        try:
            result, why = await self._post(model, line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            result, why = "failed", f"{type(error).__name__}: {error}"
        finally:
            line.call, line.next_at = None, time.monotonic() + EVERY_S
        self._metrics.wake_calls.labels(model, result).inc()
        if result != line.result:  # once per turn of events, not once per call
            level = logging.INFO if result == "accepted" else logging.WARNING
            log.log(level, "%s is called at the operator: %s%s", model, result, why and f": {why}")
            line.result = result

    async def _post(self, model: str, line: _Line) -> tuple[str, str]:
        async with self._client.post(
            f"{self._url}/wake/{model}", headers=self._token.header(), timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            told: dict[str, Any] = await answer.json()
            if answer.status != 202:
                return "refused", f"HTTP {answer.status}: {str(told['error'])[:300]}"
        eta_s = told["eta_s"]
        line.accepted_at = time.monotonic()
        line.due = None if eta_s is None else time.time() + float(eta_s)
        return "accepted", ""
