"""The public port: who may call what, and every error in OpenAI's envelope.

Plain ASGI, because a framework's routing and middleware would cost more than all of the gateway's own work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from topmast_gateway.identity.authenticator import Authenticator
from topmast_gateway.identity.caller import Caller
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.messages.asgi import Receive, Scope, Send
from topmast_gateway.messages.disconnect import ClientDisconnected, cancel_on_disconnect
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.headers import request_id
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.observability.access_log import AccessLog, RequestRecord
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.observability.tracing import Tracing, describe
from topmast_gateway.requests.body import announced_length, read_body
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
        fleet: ClusterState,
        identity: Authenticator,
        proxy: Proxy,
        admission: OverloadGuard,
        shares: Pipeline,
        metrics: Metrics,
        access_log: AccessLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._fleet = fleet
        self._identity = identity
        self._proxy = proxy
        self._admission = admission
        self._shares = shares
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        reply, visit = ResponseWriter(send, request_id(headers)), RequestRecord(time.monotonic())
        if self._tracing is None:
            await self._serve(scope, headers, receive, reply, visit)
            return
        with self._tracing.span(scope, headers) as span:
            try:
                await self._serve(scope, headers, receive, reply, visit)
            finally:
                describe(span, visit, reply)

    async def _serve(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        reply: ResponseWriter,
        visit: RequestRecord,
    ) -> None:
        try:
            await self._answer(scope, headers, receive, reply, visit)
        except ApiError as refusal:
            await reply.refuse(refusal)
            if refusal.status == 413 and headers.get(b"expect") is None:
                await _read_on(receive)
            await reply.end()
        except ClientDisconnected:
            reply.status = 499
        except Exception:
            log.exception("%s: a bug of the gateway's own", reply.request_id)
            if reply.status is not None:
                raise  # uvicorn closes the connection, which is the only honest end of a broken answer
            message = "the gateway failed because of a bug of its own; its log has the details"
            await reply.refuse(ApiError(500, "internal", message, kind="server_error"))
            await reply.end()
        finally:
            # The model is one that was found: callers must not be able to make series.
            self._metrics.requests.labels(visit.model, str(reply.status or 499)).inc()
            if self._access_log is not None:
                self._access_log.write(scope, headers, visit, reply)

    async def _answer(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        reply: ResponseWriter,
        visit: RequestRecord,
    ) -> None:
        path, method = scope["path"], scope["method"]
        caller = await self._identity.caller(scope, headers)
        visit.caller = caller.name
        if path in _COMPLETIONS:
            _allow(method, "POST", path)
            await self._complete(caller, path, headers, receive, reply, visit)
        elif path == _MODELS:
            _allow(method, "GET", path)
            await reply.json(200, self._catalogue(caller).listing())
        elif path.startswith(_MODELS + "/"):
            _allow(method, "GET", path)
            catalogue = self._catalogue(caller)
            route = catalogue.find(path.removeprefix(_MODELS + "/"))
            visit.model = route.model.key
            await reply.json(200, catalogue.card(route))
        else:
            choices = ", ".join((*_COMPLETIONS, _MODELS))
            raise ApiError(404, "not_found", f"there is no route {path[:200]}: use {choices}")

    async def _complete(
        self,
        caller: Caller,
        path: str,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        reply: ResponseWriter,
        visit: RequestRecord,
    ) -> None:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise ApiError(415, "unsupported_encoding", "the body must not be compressed: leave out Content-Encoding")
        with self._admission.admit(announced_length(headers)) as place:
            body = await read_body(receive, headers)
            place.settle(len(body))
            ask = parse_completion(path, body, headers.get(b"x-session-id", b""))
            route = self._catalogue(caller).find(ask.model)
            model = visit.model = route.model.key
            try:
                async with (
                    cancel_on_disconnect(receive),
                    self._shares.turn(caller, model, ask, headers, reply, visit.tally) as (ask, headers),
                ):
                    await self._proxy.forward(ask, model, headers, reply, visit.tally)
            finally:
                if reply.answered_at is not None and reply.status == 200:
                    self._metrics.ttfb.labels(visit.model).observe(reply.answered_at - visit.arrived_at)

    def _catalogue(self, caller: Caller) -> VisibleModels:
        return VisibleModels(self._fleet.routes, caller)


def _allow(method: str, allowed: str, path: str) -> None:
    if method != allowed:
        message = f"{method} {path} is not possible: use {allowed}"
        raise ApiError(405, "method_not_allowed", message, headers=((b"allow", allowed.encode()),))


async def _read_on(receive: Receive) -> None:
    """Take what a client still sends after its 413, within bounds.

    Most clients read no answer before all is sent, and closing on them would reset the connection and lose the answer.
    """
    size = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while size < _LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
