"""The public side: is this a token for this engine? A signature is checked once for each token, not for each call."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Final

from topmast_access.rules import Rules
from topmast_access.terms import ALGORITHM, GATEWAY, LONGEST_LIFETIME_S, OPERATOR, SKEW_S

_LONGEST_TOKEN: Final = 4096
_MOST_REMEMBERED: Final = 256  # a gateway has one at a time


class TokenRefused(Exception):
    """Not let in. `reason` labels metrics; the text says what to do."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Verifier:
    """For one audience, "namespace/name"."""

    def __init__(self, audience: str) -> None:
        import jwt  # noqa: F401  # now, so that it does not hold up the first call

        self._audience = audience
        self._rules: Rules | None = None
        self._valid_until: dict[bytes, int] = {}  # by the token's SHA-256: nothing here could be used by who reads it

    def check(self, token: str | None, rules: Rules | None) -> None:
        """Return where the token opens this engine, else raise TokenRefused."""
        if token is None:
            raise TokenRefused("missing", "send 'Authorization: Bearer TOKEN'")
        if rules is None:
            raise TokenRefused("no_keys", "its access file could not be read yet, and its log says why")
        if rules is not self._rules:  # a key may be gone, and its tokens with it
            self._rules = rules
            self._valid_until.clear()
        digest = hashlib.sha256(token.encode("latin-1", "replace")).digest()
        if time.time() < self._valid_until.get(digest, 0):
            return
        self._remember(digest, self._verified(token, rules))

    def _verified(self, token: str, rules: Rules) -> int:
        """When it expires."""
        import jwt

        if len(token) > _LONGEST_TOKEN:
            raise TokenRefused("malformed", f"the token is longer than {_LONGEST_TOKEN} characters")
        try:
            key = rules.keys.get(jwt.get_unverified_header(token).get("kid") or "")
            if key is None:
                raise TokenRefused(
                    "unknown_key", "the token is signed with a key that is not in this engine's access file"
                )
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=(GATEWAY, OPERATOR),
                leeway=SKEW_S,
                options={"require": ["aud", "iss", "iat", "exp"], "strict_aud": True},
            )
        except jwt.InvalidSignatureError:
            raise TokenRefused("signature", "the token's signature is wrong") from None
        except jwt.ExpiredSignatureError:
            raise TokenRefused("expired", "the token has expired: sign a new one, and compare the clocks") from None
        except jwt.ImmatureSignatureError:
            raise TokenRefused("not_yet_valid", "the token is of the future: compare the clocks") from None
        except jwt.InvalidAudienceError:
            raise TokenRefused("audience", f"the token is for another model than {self._audience}") from None
        except jwt.InvalidIssuerError:
            raise TokenRefused("issuer", f"the token's issuer is neither {GATEWAY} nor {OPERATOR}") from None
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            # Besides its own errors PyJWT lets some of Python's through, for claims and headers of odd shapes.
            raise TokenRefused("malformed", "this is no token for engines") from None
        issued_s, expires_s = int(claims["iat"]), int(claims["exp"])
        if expires_s - issued_s > LONGEST_LIFETIME_S:
            raise TokenRefused("lifetime", f"the token lives longer than {LONGEST_LIFETIME_S} s: sign a shorter one")
        return expires_s

    def _remember(self, digest: bytes, expires_s: int) -> None:
        if len(self._valid_until) >= _MOST_REMEMBERED:
            now_s = time.time()
            self._valid_until = {known: until for known, until in self._valid_until.items() if until > now_s}
        if len(self._valid_until) < _MOST_REMEMBERED:
            self._valid_until[digest] = expires_s


def may_scrape(token: str | None, rules: Rules | None) -> bool:
    """Whether the metrics may be read without a token for engines: by everybody, or with one that is listed."""
    if rules is None:
        return False
    if rules.metrics_open:
        return True
    shown = hashlib.sha256((token or "").encode("latin-1", "replace")).digest()
    # Every one is compared, so that the time tells nothing.
    return token is not None and sum([hmac.compare_digest(shown, known) for known in rules.metrics_sha256]) > 0
