"""The public port: OpenAI's routes, the probes, and the metrics. Probes read; they never wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from topmast_server.api.access import Access
from topmast_server.api.endpoint import GenerationEndpoint
from topmast_server.api.errors import ApiError, dump, on_http_exception, on_unexpected
from topmast_server.api.guard import Guard
from topmast_server.api.metrics import CONTENT_TYPE
from topmast_server.api.protocol import ChatRequest, CompletionRequest
from topmast_server.api.service import Service

EXCEPTION_HANDLERS: Any = {HTTPException: on_http_exception, Exception: on_unexpected}


def public_app(service: Service, log: Callable[[str], None], *, log_json: bool, guard: Guard | None = None) -> ASGIApp:
    """The application of the public port; with a guard it is closed but for the probes, which then say one word."""
    routes = Probes(service, one_word=guard is not None)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", GenerationEndpoint(service, ChatRequest), methods=["POST"]),
            Route("/v1/completions", GenerationEndpoint(service, CompletionRequest), methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/health", routes.health),
            Route("/ready", routes.ready),
            Route("/metrics", routes.metrics),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    return Access(guard.over(app) if guard else app, service.metrics.answered, log, as_json=log_json)


class Probes:
    """The routes that read. `one_word` is all that probes say to who may know no more."""

    def __init__(self, service: Service, *, one_word: bool) -> None:
        self._service = service
        self._one_word = one_word

    async def health(self, _: Request) -> Response:
        """Live: the process is up, and the engine is neither dead nor stuck."""
        failure = self._service.supervisor.failure
        verdict = self._service.supervisor.judge.verdict
        if failure is not None:
            return self._told({"live": False, "error": failure.as_json()}, 503)
        if verdict.hung:
            return self._told({"live": False, "reason": verdict.reason}, 503)
        return self._told({"live": True}, 200)

    async def ready(self, _: Request) -> Response:
        """Ready: a real generation was done, and the server is not leaving."""
        service = self._service
        return self._told({"phase": service.phase}, 200 if service.ready else 503)

    async def models(self, _: Request) -> Response:
        """All the names of the one model."""
        return _json({"object": "list", "data": [self._card(name) for name in self._service.names]})

    async def model(self, request: Request) -> Response:
        """One of its names."""
        name = request.path_params["name"]
        if name not in self._service.names:
            known = ", ".join(self._service.names)
            message = f"the model {name[:100]!r} is not served here; this server has: {known}"
            return ApiError(404, message, param="model", code="model_not_found").response()
        return _json(self._card(name))

    async def metrics(self, _: Request) -> Response:
        """Prometheus text."""
        return Response(self._service.metrics.page(), headers={"content-type": CONTENT_TYPE})

    def _told(self, content: object, status: int) -> Response:
        if self._one_word:
            return Response("ok" if status == 200 else "no", status, media_type="text/plain")
        return _json(content, status)

    def _card(self, name: str) -> dict[str, Any]:
        service = self._service
        length = (service.capacity or {}).get("max_model_len")
        card = {"id": name, "object": "model", "created": service.created, "owned_by": "topmast"}
        return {**card, "root": service.names[0], "max_model_len": length}


def _json(content: object, status: int = 200) -> Response:
    return Response(dump(content), status, media_type="application/json")
