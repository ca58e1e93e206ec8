"""The public port: who may call what, and every error in OpenAI's envelope.

Plain ASGI, because a framework's routing and middleware would cost more than all of the gateway's own work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping

from topmast_gateway import request
from topmast_gateway.admission import Admission
from topmast_gateway.asgi import Receive, Scope, Send
from topmast_gateway.errors import Refusal, unavailable
from topmast_gateway.fleet import Fleet
from topmast_gateway.headers import request_id
from topmast_gateway.keys import bearer
from topmast_gateway.leaving import ClientGone, until_the_client_leaves
from topmast_gateway.metrics import NO_MODEL, Metrics
from topmast_gateway.proxy import Proxy
from topmast_gateway.reply import Reply
from topmast_gateway.routes import Ambiguous, Model, Route, Unknown
from topmast_gateway.tally import Tally

log = logging.getLogger(__name__)

_COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
_MODELS = "/v1/models"
_LINGER_S, _LINGER_BYTES = 5.0, 64 * 1024 * 1024
_LISTED_MODELS = 50


class App:
    """One call per request."""

    def __init__(self, fleet: Fleet, proxy: Proxy, admission: Admission, metrics: Metrics) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._admission = admission
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        reply = Reply(send, request_id(headers))
        visit = _Visit()
        try:
            await self._answer(scope, headers, receive, reply, visit)
        except Refusal as refusal:
            await reply.refuse(refusal)
            if refusal.status == 413 and headers.get(b"expect") is None:
                await _read_on(receive)
            await reply.end()
        except ClientGone:
            reply.status = 499
        except Exception:
            log.exception("%s: a bug of the gateway's own", reply.request_id)
            if reply.status is not None:
                raise  # uvicorn closes the connection, which is the only honest end of a broken answer
            message = "the gateway failed because of a bug of its own; its log has the details"
            await reply.refuse(Refusal(500, "internal", message, kind="server_error"))
            await reply.end()
        finally:
            self._metrics.requests.labels(visit.model, str(reply.status or 499)).inc()

    async def _answer(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, reply: Reply, visit: _Visit
    ) -> None:
        path, method = scope["path"], scope["method"]
        self._authenticate(headers)
        if path in _COMPLETIONS:
            _allow(method, "POST", path)
            await self._complete(path, headers, receive, reply, visit)
        elif path == _MODELS:
            _allow(method, "GET", path)
            await reply.json(200, self._model_list())
        elif path.startswith(_MODELS + "/"):
            _allow(method, "GET", path)
            route = self._find(path.removeprefix(_MODELS + "/"))
            visit.model = route.model.key
            await reply.json(200, json.dumps(self._card(route.model)).encode())
        else:
            choices = ", ".join((*_COMPLETIONS, _MODELS))
            raise Refusal(404, "not_found", f"there is no route {path[:200]}: use {choices}")

    async def _complete(
        self, path: str, headers: Mapping[bytes, bytes], receive: Receive, reply: Reply, visit: _Visit
    ) -> None:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "unsupported_encoding", "the body must not be compressed: leave out Content-Encoding")
        with self._admission.admit(request.announced_length(headers)) as place:
            body = await request.read_body(receive, headers)
            place.settle(len(body))
            ask = request.parse(path, body)
            route = self._find(ask.model)
            visit.model = route.model.key
            try:
                async with until_the_client_leaves(receive):
                    await self._proxy.forward(ask, route.model.key, headers, reply, Tally())
            finally:
                if reply.answered_at is not None and reply.status == 200:
                    self._metrics.ttfb.labels(visit.model).observe(reply.answered_at - visit.arrived_at)

    def _authenticate(self, headers: Mapping[bytes, bytes]) -> None:
        if not self._fleet.synced:
            raise unavailable("starting", "the gateway is starting: it has not seen the models and keys yet", 1)
        key = bearer(headers.get(b"authorization"))
        if key is None:
            message = "an API key is needed: send it as 'Authorization: Bearer tm-...'"
        elif self._fleet.keys.name_of(key) is None:
            message = "this API key is not valid: it was mistyped or revoked, ask your administrator for one"
        else:
            return
        raise Refusal(401, "invalid_api_key", message, headers=((b"www-authenticate", b"Bearer"),))

    def _find(self, asked: str) -> Route:
        found = self._fleet.routes.find(asked)
        if isinstance(found, Route):
            return found
        if isinstance(found, Ambiguous):
            message = f"several namespaces have a model {asked!r}: say {' or '.join(found.choices)}"
            raise Refusal(404, "model_ambiguous", message, param="model")
        raise self._unknown(found)

    def _unknown(self, found: Unknown) -> Refusal:
        names = self._fleet.routes.names()
        listed = ", ".join(names[:_LISTED_MODELS]) + (" ..." if len(names) > _LISTED_MODELS else "")
        known = f"this gateway has {listed}" if names else "this gateway has no models: apply an LLMDeployment"
        message = f"there is no model {found.asked[:200]!r}: {known}"
        return Refusal(404, "model_not_found", message, param="model")

    def _model_list(self) -> bytes:
        cards = [self._card(route.model) for route in self._fleet.routes]
        return json.dumps({"object": "list", "data": cards}).encode()

    def _card(self, model: Model) -> dict[str, str | int]:
        name = self._fleet.routes.public_name(model)
        return {"id": name, "object": "model", "created": model.created, "owned_by": model.namespace}


class _Visit:
    """What one request's metrics need to know at its end."""

    def __init__(self) -> None:
        self.arrived_at = time.monotonic()
        self.model = NO_MODEL


def _allow(method: str, allowed: str, path: str) -> None:
    if method != allowed:
        message = f"{method} {path} is not possible: use {allowed}"
        raise Refusal(405, "method_not_allowed", message, headers=((b"allow", allowed.encode()),))


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
