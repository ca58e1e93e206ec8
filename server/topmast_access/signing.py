"""The private side: a key pair in a file, and the tokens that it signs for each model."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topmast_access.terms import ALGORITHM, LIFETIME_S
from topmast_access.watched_file import WatchedFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger(__name__)


class SigningKey:
    """An Ed25519 pair. Its id is the RFC 7638 thumbprint of the public half, so that nobody has to agree on names."""

    def __init__(self, pem: bytes) -> None:
        """`pem` is PKCS 8 without a password; ValueError with a sentence where it is not."""
        self._private = _private_key(pem)
        x = _base64url(self._private.public_key().public_bytes_raw())
        members = {"crv": "Ed25519", "kty": "OKP", "x": x}
        self.kid = _base64url(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())
        self.public_jwk: Mapping[str, str] = {**members, "kid": self.kid, "use": "sig", "alg": ALGORITHM}

    def sign(self, audience: str, issuer: str, now_s: float) -> str:
        """A token for one model ("namespace/name"), from now (Unix time) on."""
        import jwt

        claims = {"aud": audience, "iss": issuer, "iat": int(now_s), "exp": int(now_s) + LIFETIME_S}
        return jwt.encode(claims, self._private, ALGORITHM, {"kid": self.kid})


@dataclass(frozen=True, slots=True)
class _Signed:
    at_s: float
    header: Mapping[str, str]


class EngineTokens:
    """What shows engines who calls. Without a file there are no tokens, and none is sent."""

    def __init__(self, file: Path | None = None, issuer: str = "", clock: Callable[[], float] = time.time) -> None:
        """OSError or ValueError where the file cannot be used; later faults leave the last good key in force."""
        self._issuer = issuer
        self._clock = clock
        self._file = WatchedFile(file, SigningKey, log.warning) if file else None
        self._key = self._file.read() if self._file else None
        self._signed: dict[str, _Signed] = {}

    def header(self, model: str) -> Mapping[str, str]:
        """The header for calls at engines of the model "namespace/name"; cheap, and never to be logged."""
        if self._file is None:
            return {}
        now_s = self._clock()
        if (key := self._file.now()) is not self._key:
            self._key = key
            self._signed.clear()
        signed = self._signed.get(model)
        # A clock that was set back would call the token one of the future.
        if signed is None or not 0 <= now_s - signed.at_s < LIFETIME_S / 2:
            assert key is not None
            self._signed = {name: one for name, one in self._signed.items() if now_s - one.at_s < LIFETIME_S}
            signed = _Signed(now_s, {"authorization": f"Bearer {key.sign(model, self._issuer, now_s)}"})
            self._signed[model] = signed
        return signed.header


def _private_key(pem: bytes) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    remedy = "make one with: openssl genpkey -algorithm ed25519"
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # their words may quote the file
        raise ValueError(f"it is no private key in PEM without a password; {remedy}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"it is no Ed25519 key; {remedy}")
    return key


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
