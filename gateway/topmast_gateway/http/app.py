"""The public port: who may call what, and every error in OpenAI's envelope.

No framework: its routing and middleware would cost more than all of the gateway's own work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from topmast_gateway.identity.authenticator import Authenticator
from topmast_gateway.identity.caller import Caller
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.interruption import interruptible
from topmast_gateway.messages.request import ClientDisconnected, Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.observability.access_log import AccessLog, RequestRecord
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.observability.tracing import Tracing, describe
from topmast_gateway.requests.body import read_body
from topmast_gateway.requests.large_bodies import LARGE_BYTES, LargeBodies
from topmast_gateway.requests.parse import parse_completion
from topmast_gateway.requests.pipeline import Pipeline
from topmast_gateway.requests.visible_models import VisibleModels
from topmast_gateway.upstream.proxy import Proxy

log = logging.getLogger(__name__)

_COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
_MODELS = "/v1/models"
_LINGER_S, _LINGER_BYTES = 5.0, 64 * 1024 * 1024


class App:
    """One call per request."""

    def __init__(
        self,
        cluster: ClusterState,
        identity: Authenticator,
        proxy: Proxy,
        overload: OverloadGuard,
        pipeline: Pipeline,
        metrics: Metrics,
        access_log: AccessLog | None = None,
        tracing: Tracing | None = None,
        *,
        isolates_caches: bool = True,
    ) -> None:
        self._cluster = cluster
        self._identity = identity
        self._proxy = proxy
        self._overload = overload
        self._pipeline = pipeline
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing
        self._isolates_caches = isolates_caches
        self._large_bodies = LargeBodies()

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
            await self._complete(caller, request, writer, record)
        elif path == _MODELS:
            _allow(method, "GET", path)
            writer.json(200, self._visible_models(caller).listing())
        elif path.startswith(_MODELS + "/"):
            _allow(method, "GET", path)
            models = self._visible_models(caller)
            route = models.find(path.removeprefix(_MODELS + "/"))
            record.model = route.model.key
            writer.json(200, models.card(route))
        else:
            choices = ", ".join((*_COMPLETIONS, _MODELS))
            raise ApiError(404, "not_found", f"there is no route {path[:200]}: use {choices}")

    async def _complete(self, caller: Caller, http: Request, writer: ResponseWriter, record: RequestRecord) -> None:
        headers: Mapping[bytes, bytes] = http.headers
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise ApiError(415, "unsupported_encoding", "the body must not be compressed: leave out Content-Encoding")
        writer.shows_route = caller.debug and headers.get(b"x-topmast-debug") == b"1"
        with self._overload.admit(caller.name) as place:
            with self._pipeline.arriving(caller):
                body = await read_body(http, place.grow)
                request = await self._parsed(caller, http.path, body, headers.get(b"x-session-id", b""))
            route = self._visible_models(caller).find(request.model)
            model = record.model = route.model.key
            try:
                with interruptible(http.incoming):
                    async with self._pipeline.admitted(caller, model, request, headers, writer, record.usage) as (
                        request,
                        headers,
                    ):
                        await self._proxy.forward(request, model, headers, writer, record.usage)
            finally:
                if writer.answered_at is not None and writer.status == 200:
                    self._metrics.ttfb.labels(record.model).observe(writer.answered_at - record.arrived_at)

    async def _parsed(self, caller: Caller, path: str, body: bytearray, session: bytes) -> CompletionRequest:
        tenant = caller.name if self._isolates_caches else ""
        if len(body) < LARGE_BYTES:
            return parse_completion(path, body, session, tenant)
        return await self._large_bodies.parsed(caller.name, lambda: parse_completion(path, body, session, tenant))

    def _visible_models(self, caller: Caller) -> VisibleModels:
        return VisibleModels(self._cluster.routes, caller)


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
