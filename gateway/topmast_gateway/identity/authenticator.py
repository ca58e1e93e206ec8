"""Who calls: a verified API key or a verified token makes a Caller, everything else is refused here.

The order is: API key, then JWT where that is set up. Authorization counts, and without it x-api-key, which Anthropic's
clients send; no other header does.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

from topmast_gateway.identity.api_keys import ApiKeys, bearer_token
from topmast_gateway.identity.auth_throttle import AuthThrottle
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.client_ip import TrustedProxies
from topmast_gateway.messages.errors import ApiError, unavailable
from topmast_gateway.messages.request import Request
from topmast_gateway.observability.metrics import Metrics


class BadToken(Exception):
    """Why a token is refused. A `guess` counts against the address that it came from; a token grown old does not."""

    def __init__(self, message: str, *, guess: bool = True) -> None:
        super().__init__(message)
        self.guess = guess


class TokenVerifier(Protocol):
    """What else than API keys is accepted."""

    async def caller(self, token: bytes) -> Caller:
        """Whose token it is; BadToken, or an ApiError of its own."""


class KeySource(Protocol):
    """The keys as they are now; `synced` once they were seen."""

    @property
    def synced(self) -> bool: ...

    @property
    def keys(self) -> ApiKeys: ...


class Authenticator:
    """Turns a request's Authorization into a Caller."""

    def __init__(
        self,
        known: KeySource,
        metrics: Metrics,
        proxies: TrustedProxies,
        throttle: AuthThrottle,
        tokens: TokenVerifier | None,
    ) -> None:
        self._known = known
        self._metrics = metrics
        self._proxies = proxies
        self._throttle = throttle
        self._tokens = tokens

    def client_ip(self, request: Request) -> str:
        """Where a request comes from, as far as trusted proxies say."""
        return self._proxies.address(request)

    async def caller(self, request: Request) -> Caller:
        """The verified caller, or an ApiError: 503 while the keys are unknown, else 401 or 429."""
        if not self._known.synced:
            raise unavailable("starting", "the gateway is starting: it has not seen the models and keys yet", 1)
        headers = request.headers
        presented = bearer_token(headers.get(b"authorization"))
        if presented is None and b"authorization" not in headers:
            presented = headers.get(b"x-api-key", b"").strip() or None
        if presented is None:
            how = "send it as 'Authorization: Bearer tm-...' or as 'x-api-key: tm-...'"
            raise self._no("missing", f"an API key is needed: {how}")
        message = "this API key is not valid: it was mistyped or revoked, ask your administrator for one"
        key = self._known.keys.find(presented)
        if key:
            if key.expires_s is not None and time.time() >= key.expires_s:
                expired = f"the API key {key.caller.name!r} has expired: ask your administrator for a new one"
                raise self._no("expired", expired, "expired_api_key")
            return key.caller
        if self._tokens and presented.count(b".") == 2:
            try:
                return self._with_team(await self._tokens.caller(presented))
            except BadToken as bad:
                if not bad.guess:
                    raise self._no("expired", str(bad), "expired_api_key") from None
                message = str(bad)
        wait_s = self._throttle.failed(self._proxies.address(request))
        if wait_s is None:
            raise self._no("unknown", message)
        self._metrics.authentication_failures.labels("throttled").inc()
        raise ApiError(
            429,
            "too_many_failures",
            f"too many wrong API keys came from your address: correct the key, then try again in {wait_s} s",
            headers=((b"retry-after", str(wait_s).encode()), (b"connection", b"close")),
        )

    def _with_team(self, caller: Caller) -> Caller:
        """The caller of a token with its team's limits; 403 where its team is none."""
        if caller.team is None:
            return caller
        if (team := self._known.keys.team(caller.team.name)) is None:
            message = f"this token is of the team {caller.team.name!r}, which is not set up here: add an entry for it"
            raise ApiError(403, "team_unknown", message, kind="permission_error")
        return replace(caller, team=team)

    def _no(self, reason: str, message: str, code: str = "invalid_api_key") -> ApiError:
        self._metrics.authentication_failures.labels(reason).inc()
        return ApiError(401, code, message, headers=((b"www-authenticate", b"Bearer"), (b"connection", b"close")))
