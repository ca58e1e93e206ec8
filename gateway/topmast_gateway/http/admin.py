"""The admin port: `/metrics`, `/healthz`, `/readyz`, `/usage` for other gateways, and `/queue` for the operator.

Prometheus and kubelets have no key, so nothing here may name one. `/usage` and `/queue` want the token that gateways
and operator share.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.limits.replication import CounterReplication
from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.observability.caller_usage import CallerUsage
from topmast_gateway.observability.exposition import CONTENT_TYPE, pages
from topmast_gateway.observability.metrics import Metrics

_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_NO_TOKEN = b"this needs --shared-token-file: give all gateways and the operator the same\n"
_WRONG_TOKEN = b"send 'Authorization: Bearer TOKEN' with the token in --shared-token-file\n"
_PROMETHEUS = [(b"content-type", CONTENT_TYPE)]


class Admin:
    """`why_not_ready` says in a sentence what is missing, and nothing when all is well; `queue` is for `/queue`."""

    def __init__(
        self,
        metrics: Metrics,
        usage: CallerUsage,
        why_not_ready: Callable[[], str],
        replication: CounterReplication,
        queue: Callable[[], bytes],
        token: SharedToken,
    ) -> None:
        self._metrics = metrics
        self._usage = usage
        self._replication = replication
        self._queue = queue
        self._token = token
        self._why_not_ready = why_not_ready

    async def __call__(self, request: Request, writer: ResponseWriter) -> None:
        match request.path:
            case "/healthz":  # the loop runs, or this would not be answered
                writer.whole(200, b"ok\n", _TEXT)
            case "/readyz":
                why = self._why_not_ready()
                writer.whole(503 if why else 200, f"{why or 'ok'}\n".encode(), _TEXT)
            case "/metrics":
                writer.start(200, _PROMETHEUS)
                async for piece in pages(chain(self._metrics.lines(), self._usage.lines())):
                    writer.chunk(piece)
                    await writer.drained()
                writer.end()
            case "/usage" | "/queue" if not self._token:
                writer.whole(404, _NO_TOKEN, _TEXT)
            case "/usage" | "/queue" if not self._token.is_known_to(request):
                writer.whole(401, _WRONG_TOKEN, [*_TEXT, (b"www-authenticate", b"Bearer")])
            case "/usage":
                writer.json(200, self._replication.answer(request.query))
            case "/queue":
                writer.json(200, self._queue())
            case _:
                writer.whole(404, b"use /metrics, /usage, /queue, /healthz or /readyz\n", _TEXT)
