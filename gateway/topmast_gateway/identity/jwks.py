"""The public keys of a token issuer: a JWKS from a file or a URL, read again and again; the last good one counts.

Only asymmetric keys for signatures are taken, and each with the one algorithm that fits it: a token cannot choose.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt

log = logging.getLogger(__name__)

_LARGEST_BYTES = 1024 * 1024
_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=5)
_FILE_EVERY_S, _URL_EVERY_S, _FIRST_EVERY_S = 2.0, 300.0, 5.0
UNKNOWN_KEY_EVERY_S = 30.0  # a stranger's made-up key id must not become traffic at the issuer
_LEAST_RSA_BITS = 2048
_CURVES = {("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}

Read = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key and the one algorithm that it may be used with."""

    kid: str | None
    algorithm: str
    key: Any


def parse_jwks(raw: bytes) -> tuple[SigningKey, ...]:
    """The usable keys of a JWKS; ValueError when there is none."""
    try:
        listed = json.loads(raw)["keys"]
        found = [key for item in listed if (key := _signing_key(item))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError('it is not a JWKS: a JSON object with "keys"') from None
    if not found:
        raise ValueError("it has no RSA key of 2048 bits, no P-256 and no Ed25519 key for signatures")
    return tuple(found)


def _signing_key(item: dict[str, Any]) -> SigningKey | None:
    algorithm = "RS256" if item.get("kty") == "RSA" else _CURVES.get((str(item.get("kty")), str(item.get("crv"))))
    if algorithm is None or item.get("use", "sig") != "sig" or item.get("alg", algorithm) != algorithm or "d" in item:
        return None
    try:
        key = jwt.PyJWK(item, algorithm).key
    except Exception:  # PyJWT lets many kinds through, and one odd key must not cost the others
        return None
    if algorithm == "RS256" and key.key_size < _LEAST_RSA_BITS:
        return None
    kid = item.get("kid")
    return SigningKey(kid if isinstance(kid, str) else None, algorithm, key)


class Jwks:
    """Keys by id. `follow` reads them again and again; an unknown id asks once more, within bounds."""

    def __init__(self, where: str, read: Read, every_s: float) -> None:
        self.keys: tuple[SigningKey, ...] = ()
        self._where = where
        self._read = read
        self._every_s = every_s
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._trouble = ""

    async def find(self, kid: str | None) -> SigningKey | None:
        """The key of this id; without one, the set's only key."""
        key = self._pick(kid)
        if key is None and (self._reading or time.monotonic() - self._read_at >= UNKNOWN_KEY_EVERY_S):
            await self.refresh()
            key = self._pick(kid)
        return key

    async def follow(self) -> None:
        """Stay up to date until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._every_s if self.keys else _FIRST_EVERY_S)

    async def refresh(self) -> None:
        """Read now, or wait for the reading that is under way."""
        if self._reading is None:
            self._read_at = time.monotonic()
            self._reading = asyncio.create_task(self._load())
        await asyncio.shield(self._reading)

    def _pick(self, kid: str | None) -> SigningKey | None:
        if kid is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.kid == kid), None)

    async def _load(self) -> None:
        try:
            keys = parse_jwks(await self._read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            trouble = f"{type(error).__name__}: {error}"
            if trouble != self._trouble:
                kept = "going on with the last ones" if self.keys else "no token is accepted before it works"
                log.warning("cannot read the token keys of %s (%s): %s", self._where, trouble, kept)
            self._trouble = trouble
        else:
            if keys != self.keys or self._trouble:
                log.info("%d token keys from %s", len(keys), self._where)
            self.keys, self._trouble = keys, ""
        finally:
            self._reading = None


def open_jwks(where: str) -> Jwks:
    """A key set from a file or an https URL; OSError or ValueError when the file cannot be used."""
    if where.startswith(("https://", "http://")):
        return Jwks(where, lambda: _fetch(where), _URL_EVERY_S)
    path = Path(where)
    keys = Jwks(where, lambda: asyncio.to_thread(_bounded, path), _FILE_EVERY_S)
    keys.keys = parse_jwks(_bounded(path))
    return keys


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST_BYTES)


async def _fetch(url: str) -> bytes:
    async with (
        aiohttp.ClientSession(timeout=_FETCH_TIMEOUT) as client,
        client.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"it answered HTTP {response.status}")
        raw = b""
        async for piece in response.content.iter_chunked(65_536):
            raw += piece
            if len(raw) > _LARGEST_BYTES:
                raise ValueError(f"it is larger than {_LARGEST_BYTES} bytes")
        return raw
