"""Lets pages of the named origins call the gateway from a browser. Off unless an origin is named.

Callers are known by the key they send, never by a cookie, so no answer ever allows credentials.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from topmast_gateway.messages.asgi import App, Header, Message, Receive, Scope, Send

ANY = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")
_EXPOSED = (b"access-control-expose-headers", b"*")
_VARY = (b"vary", b"origin")
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, *"),  # the asterisk does not cover authorization
    (b"access-control-max-age", b"600"),
)


def origin(text: str) -> str:
    """A value of the flag; ValueError with the remedy."""
    if text != ANY and not _ORIGIN.fullmatch(text):
        raise ValueError("an origin is a scheme and a host without a path, such as https://chat.example.org, or *")
    return text


class Cors:
    """An ASGI application around another one."""

    def __init__(self, app: App, origins: Sequence[str]) -> None:
        self._app = app
        self._any = ANY in origins
        self._origins = frozenset(item.encode() for item in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _header(scope, b"origin")
        if asked is None:
            await self._app(scope, receive, send)
            return
        if not (self._any or asked in self._origins):
            await self._app(scope, receive, _adding(send, []))  # an engine may allow more than is allowed here
            return
        added = [(b"access-control-allow-origin", ANY.encode()), _EXPOSED]
        if not self._any:
            added = [(b"access-control-allow-origin", asked), _EXPOSED, _VARY]
        if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None:
            await send({"type": "http.response.start", "status": 204, "headers": [*added, *_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self._app(scope, receive, _adding(send, added))


def _adding(send: Send, added: list[Header]) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [item for item in message["headers"] if not item[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return with_headers


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    value: bytes | None = next((value for name, value in scope["headers"] if name == wanted), None)
    return value
