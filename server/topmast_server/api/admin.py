"""The admin port: the whole truth about this server for operator and gateway, and the start of a drain.

Never reachable for users. Its fields are a contract (docs/contracts.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from topmast_server.api.access import Access
from topmast_server.api.app import EXCEPTION_HANDLERS
from topmast_server.api.errors import dump
from topmast_server.api.guard import Guard
from topmast_server.api.service import Service


def admin_app(service: Service, log: Callable[[str], None], *, log_json: bool, guard: Guard | None = None) -> ASGIApp:
    """The application of the admin port; with a guard it is closed."""

    async def show(_: Request) -> Response:
        return Response(dump(state(service)), media_type="application/json")

    async def drain(_: Request) -> Response:
        service.drain.start()
        answer = {"phase": service.phase, "running": service.in_flight.count}
        return Response(dump(answer), media_type="application/json")

    app = Starlette(
        routes=[Route("/state", show), Route("/drain", drain, methods=["POST"])],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    return Access(guard.over(app) if guard else app, service.metrics.answered, log, as_json=log_json)


def state(service: Service) -> dict[str, Any]:
    """docs/contracts.md, "/state"."""
    supervisor = service.supervisor
    page = supervisor.progress.read()
    stats = supervisor.stats
    unknown = {"architecture": None, "format": None, "digest": None, "parameters": None}
    load = supervisor.load
    failure = supervisor.failure
    started = ("import_s", "weights_s", "warmup_s", "total_s")
    return {
        "phase": service.phase,
        "model": {"names": service.names, **supervisor.info.get("model", unknown)},
        "device": supervisor.info.get("device"),
        "load": {"bytes_done": load.bytes_done, "bytes_total": load.bytes_total, "eta_s": load.eta_s},
        "start": {name: service.start_seconds.get(name) for name in started},
        "work": {
            "running": int(stats.get("running", 0)),
            "waiting": int(stats.get("waiting", 0)),
            "waiting_prompt_tokens": service.queued_tokens,
            "kv_tokens_used": int(stats.get("kv_tokens_used", 0)),
            "input_tokens_total": service.input_tokens,
            "output_tokens_total": int(stats.get("output_tokens_total", 0)),
            "requests_total": service.requests,
            "requests_finished_total": service.requests_finished,
        },
        "capacity": service.capacity,
        "progress": {"steps": page.steps, "step_age_s": round(page.age_s(), 3), "has_work": page.has_work},
        "error": None if failure is None else failure.as_json(),
    }
