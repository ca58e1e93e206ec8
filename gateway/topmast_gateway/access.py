"""Who may call, and how engines know this gateway: flags checked and turned into what serves them."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from topmast_access.signing import EngineTokens
from topmast_access.terms import GATEWAY
from topmast_gateway.http.tls import Certificate
from topmast_gateway.identity.auth_throttle import AuthThrottle
from topmast_gateway.identity.authenticator import Authenticator, KeySource, TokenVerifier
from topmast_gateway.identity.caller import Limits
from topmast_gateway.identity.client_ip import Network, TrustedProxies
from topmast_gateway.observability.metrics import Metrics

if TYPE_CHECKING:
    from topmast_gateway.identity.jwks import Jwks


class ConfigError(Exception):
    """A flag asks for what is not there; the text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class AccessControl:
    """What the flags ask for, read and checked."""

    failures_per_minute: int = 20
    trusted_proxies: tuple[Network, ...] = ()
    cors_origins: tuple[str, ...] = ()
    certificate: Certificate | None = None
    token_keys: Jwks | None = None
    tokens: TokenVerifier | None = None

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What the public port encrypts with."""
        return self.certificate.context if self.certificate else None

    def identity(self, known: KeySource, metrics: Metrics) -> Authenticator:
        """Who decides about each request."""
        proxies, throttle = TrustedProxies(self.trusted_proxies), AuthThrottle(self.failures_per_minute)
        return Authenticator(known, metrics, proxies, throttle, self.tokens)

    async def follow(self) -> None:
        """Keep the certificate and the tokens' keys up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in (self.certificate, self.token_keys):
                if part:
                    group.create_task(part.follow())
            await asyncio.Event().wait()


def read_access(flags: argparse.Namespace) -> AccessControl:
    """What the flags ask for; ConfigError when a file is not usable or flags do not go together."""
    keys, tokens = _tokens(flags)
    return AccessControl(
        flags.failures_per_minute,
        tuple(flags.trusted_proxies),
        tuple(flags.cors_origin),
        _certificate(flags.tls_cert, flags.tls_key),
        keys,
        tokens,
    )


def engine_tokens(signing_key: Path | None) -> EngineTokens:
    """What engines are shown; ConfigError when the key is not usable."""
    try:
        return EngineTokens(signing_key, GATEWAY)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use --signing-key {signing_key}: {error}") from error


def _certificate(cert: Path | None, key: Path | None) -> Certificate | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError("--tls-cert and --tls-key need each other: give both or none")
    try:
        return Certificate(cert, key)
    except OSError as error:
        raise ConfigError(f"cannot use the certificate {cert} with the key {key}: {error}; mount PEM files") from error


def _tokens(flags: argparse.Namespace) -> tuple[Jwks | None, TokenVerifier | None]:
    given = (flags.jwt_jwks, flags.jwt_issuer, flags.jwt_audience)
    if not any(given):
        return None, None
    if not all(given):
        raise ConfigError("--jwt-jwks, --jwt-issuer and --jwt-audience need each other: give all three or none")
    where = urlsplit(flags.jwt_jwks)
    if where.scheme == "http" and where.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError("--jwt-jwks must be https, or a file: whoever changes keys on their way lets anybody in")
    # Imported late: who uses no tokens pays for no cryptography.
    from topmast_gateway.identity.jwks import open_jwks
    from topmast_gateway.identity.jwt import JwtRules, JwtVerifier

    try:
        keys = open_jwks(flags.jwt_jwks)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read --jwt-jwks {flags.jwt_jwks}: {error}") from error
    limits = Limits(
        requests_per_minute=flags.jwt_requests_per_minute,
        tokens_per_minute=flags.jwt_tokens_per_minute,
        budget_tokens=flags.jwt_budget_tokens,
        budget_period=flags.jwt_budget_period,
        max_streams=flags.jwt_max_streams,
    )
    terms = JwtRules(
        flags.jwt_issuer,
        flags.jwt_audience,
        flags.jwt_name_claim,
        flags.jwt_models_claim,
        tuple(flags.jwt_default_models),
        flags.jwt_team_claim,
        limits,
    )
    return keys, JwtVerifier(keys, terms)
