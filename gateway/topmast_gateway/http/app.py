"""The public port: who may call what, and every error in OpenAI's envelope.

No framework: its routing and middleware would cost more than all of the gateway's own work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from topmast_gateway.identity.authenticator import Authenticator
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import ClientDisconnected, Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.observability.access_log import AccessLog, RequestRecord
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.observability.tracing import Tracing, describe
from topmast_gateway.requests.pipeline import Pipeline
from topmast_gateway.requests.visible_models import VisibleModels

log = logging.getLogger(__name__)

_COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
_MODELS = "/v1/models"
_USAGE = "/v1/usage"
_LINGER_S, _LINGER_BYTES = 5.0, 64 * 1024 * 1024


class App:
    """One call per request."""

    def __init__(
        self,
        cluster: ClusterState,
        identity: Authenticator,
        pipeline: Pipeline,
        metrics: Metrics,
        access_log: AccessLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._cluster = cluster
        self._identity = identity
        self._pipeline = pipeline
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing

    async def __call__(self, request: Request, writer: ResponseWriter) -> None:
        record = RequestRecord(time.monotonic(), self._identity.client_ip(request))
        if self._tracing is None:
            await self._serve(request, writer, record)
            return
        with self._tracing.span(request) as span:
            try:
                await self._serve(request, writer, record)
            finally:
                describe(span, record, writer)

    async def _serve(self, request: Request, writer: ResponseWriter, record: RequestRecord) -> None:
        try:
            await self._answer(request, writer, record)
        except ApiError as refusal:
            writer.refuse(refusal)
            if refusal.status == 413 and request.headers.get(b"expect") is None:
                await _read_on(request)
            writer.end()
        except ClientDisconnected:
            writer.status = 499
        except Exception:
            log.exception("%s: a bug of the gateway's own", writer.request_id)
            if writer.status is None:  # else the connection is closed: the only honest end of a broken answer
                message = "the gateway failed because of a bug of its own; its log has the details"
                writer.refuse(ApiError(500, "internal", message, kind="server_error"))
                writer.end()
        finally:
            # The model is one that was found: callers must not be able to make series.
            self._metrics.requests.labels(record.model, str(writer.status or 499)).inc()
            if self._access_log is not None:
                self._access_log.write(request, record, writer)

    async def _answer(self, request: Request, writer: ResponseWriter, record: RequestRecord) -> None:
        path, method = request.path, request.method
        caller = await self._identity.caller(request)
        record.caller = caller.name
        if path in _COMPLETIONS:
            _allow(method, "POST", path)
            await self._pipeline.complete(caller, request, writer, record)
        elif path == _MODELS:
            _allow(method, "GET", path)
            writer.json(200, VisibleModels(self._cluster.routes, caller).listing())
        elif path.startswith(_MODELS + "/"):
            _allow(method, "GET", path)
            models, name = VisibleModels(self._cluster.routes, caller), path.removeprefix(_MODELS + "/")
            route = models.find(name)
            record.model = route.model.key
            writer.json(200, models.card(route, name))
        elif path == _USAGE:
            _allow(method, "GET", path)
            writer.json(200, self._pipeline.usage(caller))
        else:
            choices = ", ".join((*_COMPLETIONS, _MODELS, _USAGE))
            raise ApiError(404, "not_found", f"there is no route {path[:200]}: use {choices}")


def _allow(method: str, allowed: str, path: str) -> None:
    if method != allowed:
        message = f"{method} {path} is not possible: use {allowed}"
        raise ApiError(405, "method_not_allowed", message, headers=((b"allow", allowed.encode()),))


async def _read_on(request: Request) -> None:
    """Take what a client still sends after its 413, within bounds.

    Most clients read no answer before all is sent, and closing on them would reset the connection and lose the answer.
    """
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnected):
        async with asyncio.timeout(_LINGER_S):
            while size < _LINGER_BYTES and (piece := await request.incoming.read()):
                size += len(piece)
