"""Lets pages of the named origins call the gateway from a browser. Off unless an origin is named.

Callers are known by the key they send, never by a cookie, so no answer ever allows credentials.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from topmast_gateway.http.listener import Handler
from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter

ANY = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")
_ALLOW = b"access-control-allow-origin"
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
    """Around another handler. What an engine allows never counts: messages/headers.py passes none of it on."""

    def __init__(self, handler: Handler, origins: Sequence[str]) -> None:
        self._handler = handler
        self._any = ANY in origins
        self._origins = frozenset(item.encode() for item in origins)

    async def __call__(self, request: Request, writer: ResponseWriter) -> None:
        asked = request.headers.get(b"origin")
        if asked is not None and (self._any or asked in self._origins):
            allowed = [(_ALLOW, ANY.encode()), _EXPOSED] if self._any else [(_ALLOW, asked), _EXPOSED, _VARY]
            writer.extra_headers += allowed
            if request.method == "OPTIONS" and b"access-control-request-method" in request.headers:
                writer.start(204, _PREFLIGHT)
                writer.end()
                return
        await self._handler(request, writer)
