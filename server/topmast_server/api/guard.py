"""Closed doors: with an access file every call needs a token of gateway or operator, on either port.

Open are the probes, which say one word, and the metrics as far as the file says. Who is refused has sent his body for
nothing: it is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from topmast_access.rules import parse_rules
from topmast_access.terms import REFUSED
from topmast_access.verifying import TokenRefused, Verifier, may_scrape
from topmast_access.watched_file import WatchedFile
from topmast_server.api.errors import ApiError

_PROBES: Final = frozenset({"/health", "/ready"})
_METRICS: Final = "/metrics"
_READS: Final = ("GET", "HEAD")


class Guard:
    """Decides for both ports. `count` is told the reason of every refusal, `complain` what is wrong with the file."""

    def __init__(
        self, file: Path, audience: str, count: Callable[[str], None], complain: Callable[[str], None]
    ) -> None:
        self._rules = WatchedFile(file, parse_rules, complain, without="so nobody is let in")
        self._verifier = Verifier(audience)
        self._count = count
        self._rules.now()  # so that what is wrong with the file is said at the start

    def over(self, app: ASGIApp) -> ASGIApp:
        """The application, for those who may call it."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and (refused := self._refusal(scope)):
                self._count(refused.reason)
                scope["state"]["outcome"] = f"refused:{refused.reason}"
                message = f"this engine serves its gateway and its operator only: {refused}"
                answer = ApiError(401, message, code=REFUSED).response()
                answer.headers["WWW-Authenticate"] = "Bearer"
                await answer(scope, receive, send)
            else:
                await app(scope, receive, send)

        return guarded

    def _refusal(self, scope: Scope) -> TokenRefused | None:
        path, reads = scope["path"], scope["method"] in _READS
        if path in _PROBES and reads:
            return None
        token, rules = _bearer(Headers(scope=scope).get("authorization", "")), self._rules.now()
        if path == _METRICS and reads and may_scrape(token, rules):
            return None
        try:
            self._verifier.check(token, rules)
        except TokenRefused as refused:
            return refused
        return None


def _bearer(authorization: str) -> str | None:
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
