"""Callers by JSON Web Token: the signature, the issuer, the audience and the times are checked, then claims are read.

The algorithm is the key's, never the token's word, and one of RS256, ES256 and EdDSA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from topmast_gateway.identity.authenticator import BadToken
from topmast_gateway.identity.caller import TEAM_NAME, Caller, Limits, Team, parse_patterns
from topmast_gateway.identity.jwks import Jwks
from topmast_gateway.messages.errors import ApiError, unavailable

_LEEWAY_S = 30
_LONGEST_TOKEN = 8192
_NAME = re.compile(r"[\x21-\x7e]{1,128}")  # it goes into logs and metrics


@dataclass(frozen=True, slots=True)
class JwtRules:
    """What a token must say, and what it is worth. `default_models` are for tokens without the claim of models."""

    issuer: str
    audience: str
    name_claim: str = "sub"
    models_claim: str = "topmast_models"
    default_models: tuple[str, ...] = ()
    team_claim: str | None = None
    limits: Limits = field(default_factory=Limits)


class JwtVerifier:
    """Verifies tokens with the keys of one issuer."""

    def __init__(self, keys: Jwks, terms: JwtRules) -> None:
        self._keys = keys
        self._terms = terms

    async def caller(self, token: bytes) -> Caller:
        """Whose token it is, named `jwt:<name>`; BadToken, or an ApiError when it opens no model."""
        if len(token) > _LONGEST_TOKEN:
            raise BadToken(f"this token is longer than {_LONGEST_TOKEN} bytes: ask for one with fewer claims")
        claims = await self._verified(token)
        name = claims[self._terms.name_claim]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadToken(
                f"the claim {self._terms.name_claim!r} of this token is no name of 1 to 128 plain characters"
            )
        return Caller(f"jwt:{name}", self._models(claims), self._terms.limits, team=self._team(claims))

    async def _verified(self, token: bytes) -> Mapping[str, Any]:
        terms = self._terms
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.find(header.get("kid"))
            if key is None and not self._keys.keys:
                raise unavailable("no_token_keys", "the issuer's keys cannot be read: tokens are not accepted yet", 5)
            if key is None:
                raise BadToken("this token is signed with a key that its issuer does not publish: get a new token")
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=terms.issuer,
                audience=terms.audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", terms.name_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise BadToken("this token has expired: ask your issuer for a new one", guess=False) from None
        except jwt.ImmatureSignatureError:
            raise BadToken("this token is not valid yet: check the clock of its issuer", guess=False) from None
        except jwt.MissingRequiredClaimError as error:
            raise BadToken(f"this token lacks the claim {error.claim!r}") from None
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
            raise BadToken("this token is for somebody else: its `iss` or its `aud` is not this gateway's") from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            # Besides its own errors PyJWT lets some of Python's through, for claims and headers of odd shapes.
            raise BadToken("this token is not valid: its form or its signature is wrong") from None
        return claims

    def _team(self, claims: Mapping[str, Any]) -> Team | None:
        """By the claim, where there is one; its limits are not known here."""
        claim = self._terms.team_claim
        if claim is None or claim not in claims:
            return None
        name = claims[claim]
        if not isinstance(name, str) or not TEAM_NAME.fullmatch(name):
            raise BadToken(f"the claim {claim!r} of this token is no name of a team", guess=False)
        return Team(name)

    def _models(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        claim = self._terms.models_claim
        if claim not in claims and self._terms.default_models:
            return self._terms.default_models
        try:
            return parse_patterns(claims.get(claim))
        except ValueError as error:
            message = f"this token opens no model: its claim {claim!r} {error}; ask whoever runs your issuer"
            raise ApiError(403, "model_not_allowed", message) from None
