"""Around every request: its id, its line in the access log, its place in the metrics.

The log never carries what people wrote. Probes that succeed are not logged.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
_QUIET: Final = frozenset({"/health", "/ready", "/metrics", "/state"})
_HANDLERS: Final = _QUIET | {"/v1/chat/completions", "/v1/completions", "/v1/models", "/drain"}


class Access:
    """ASGI middleware. `count` gets (handler, method, status); `write` gets the finished line."""

    def __init__(
        self,
        app: ASGIApp,
        count: Callable[[str, str, int], None],
        write: Callable[[str], None],
        *,
        as_json: bool,
    ) -> None:
        self._app = app
        self._count = count
        self._write = write
        self._line = _json_line if as_json else _text_line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        state = scope["state"] = {"request_id": request_id}
        began_s = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            path: str = scope["path"]
            # Unknown paths are the caller's words: as a label they would grow without bound.
            handler = path if path in _HANDLERS else "/v1/models" if path.startswith("/v1/models/") else "other"
            self._count(handler, scope["method"], status)
            if path not in _QUIET or not 200 <= status < 300:
                took_ms = round(1000 * (time.monotonic() - began_s), 1)
                fields = {"method": scope["method"], "path": path[:200], "status": status, "ms": took_ms}
                self._write(self._line({**fields, **_details(state)}))


def _details(state: dict[str, Any]) -> dict[str, Any]:
    tokens = state.get("tokens")
    details = {} if tokens is None else {"prompt_tokens": tokens[0], "tokens": tokens[1]}
    if "outcome" in state:
        details["outcome"] = state["outcome"]
    return {**details, "request_id": state["request_id"]}


def _text_line(fields: dict[str, Any]) -> str:
    # json.dumps keeps a path with line breaks from forging lines of the log.
    rest = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("method", "path"))
    return f"{fields['method']} {json.dumps(fields['path'])[1:-1]} {rest}"


def _json_line(fields: dict[str, Any]) -> str:
    return json.dumps({"time": round(time.time(), 3), **fields}, ensure_ascii=False)
