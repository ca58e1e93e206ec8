"""Engines that misbehave on demand: small real HTTP servers on loopback addresses, for faults a real engine has rarely.

Each listens on port 8000 of an address of its own, as a pod does on its own IP.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

from aiohttp import web

from checkout import network

_ADDRESSES = (f"127.{network()}.{number // 250}.{number % 250 + 1}" for number in itertools.count())


def free_address() -> str:
    """An address that no other engine of this run has."""
    return next(_ADDRESSES)


class Engine:
    """`mode` decides what the next request gets, for so many `times`, then "stream"; all that arrives is remembered.

    While its `gate` is clear it works and makes nothing; with the mode "steps" it clears the gate at every event.
    """

    def __init__(
        self,
        mode: str = "stream",
        *,
        chunks: int = 4,
        pause_s: float = 0.0,
        ip: str | None = None,
        times: int | None = None,
        metrics: str | None = None,
    ) -> None:
        self.ip = ip or free_address()
        self.retry_after_s = 7  # of a full one
        self.mode, self.chunks, self.pause_s, self.times = mode, chunks, pause_s, times
        self.metrics = metrics  # the page; without one there is none
        self.gate = asyncio.Event()
        self.gate.set()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.sent_at: list[float] = []
        self.abandoned_at: list[float] = []
        self.running = 0
        self.most_running = 0
        self._runner: web.AppRunner | None = None

    @property
    def asked(self) -> int:
        """Requests that arrived."""
        return len(self.bodies)

    async def __aenter__(self) -> Engine:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/{route:.*}", self._answer)
        app.router.add_get("/metrics", self._metrics)
        # A handler must learn of a disconnection as an engine does.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.ip, 8000).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        if self.mode == "silent":
            await asyncio.sleep(3600)
        return web.Response(text=self.metrics) if self.metrics else web.Response(status=404)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(await request.json())
        if self.times is not None and self.asked > self.times:
            self.mode = "stream"
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._misbehave(request)
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned_at.append(time.monotonic())
            raise
        finally:
            self.running -= 1

    async def _misbehave(self, request: web.Request) -> web.StreamResponse:
        match self.mode:
            case "full":
                refusal = _error(503, "server_full", {"Retry-After": str(self.retry_after_s)})
                refusal.force_close()  # a request on an old connection could overtake the one before it on a new one
                return refusal
            case "not_ready" | "draining" | "engine_failed":
                return _error(503, self.mode, {"Retry-After": "1"})
            case "invalid_engine_token" | "other_401":
                return _error(401, self.mode, {"WWW-Authenticate": "Bearer"})
            case "bad_request":
                return _error(400, "too_long", {})
            case "broken":
                return web.json_response({"error": {"message": "a bug", "code": "internal"}}, status=500)
            case "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "silent":
                await asyncio.sleep(3600)
        if not self.bodies[-1].get("stream"):
            await asyncio.sleep(self.pause_s)
            await self.gate.wait()
            return web.json_response({"object": "chat.completion", "served_by": self.ip})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Engine": self.ip})
        await response.prepare(request)
        while self.mode == "flood":
            await response.write(b"data: " + b"x" * 65_536 + b"\n\n")
        for number in range(self.chunks):
            await self.gate.wait()
            if self.mode == "steps":
                self.gate.clear()
            self.sent_at.append(time.monotonic())
            await response.write(b"data: " + json.dumps({"number": number, "served_by": self.ip}).encode() + b"\n\n")
            await asyncio.sleep(self.pause_s)
            if number == 1 and self.mode == "tear":
                await response.write(b'data: {"num')
                await asyncio.sleep(0.05)
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == 1 and self.mode == "stall":
                await asyncio.sleep(3600)
        await response.write(b"data: [DONE]\n\n")
        return response


def _error(status: int, code: str, headers: dict[str, str]) -> web.Response:
    error = {"message": f"{code}, says the engine", "type": "overloaded_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)
