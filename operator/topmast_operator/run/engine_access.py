"""The operator's side of closed doors: the public keys and the scrape token that engines are told, and its own tokens.

The files are mounted Secrets, and are looked at again while the operator runs: a rotation restarts nothing.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from topmast_access.signing import EngineTokens, SigningKey
from topmast_access.terms import MAX_KEYS, OPERATOR
from topmast_operator.render.access import access_text

SIGNING = "signing.pem"
LOOK_EVERY_S = 5.0

log = logging.getLogger(__name__)


class EngineAccess:
    """Without a directory of keys there is neither a file for engines nor a token for them."""

    def __init__(
        self, keys: Path | None = None, scrape_token: Path | None = None, *, metrics_open: bool = False
    ) -> None:
        """OSError or ValueError, with the file's name, where a file cannot be used. Later faults change nothing."""
        self._keys = keys
        self._scrape_token = scrape_token
        self._metrics_open = metrics_open
        self._tokens = EngineTokens(keys / SIGNING if keys else None, OPERATOR)
        self._trouble = ""
        self.text: str | None = self._read() if keys else None  # of the access file of every model

    def authorization(self, namespace: str, model: str) -> str | None:
        """The header by which engines of a model know the operator."""
        return self._tokens.header(f"{namespace}/{model}").get("authorization")

    async def follow(self, changed: Callable[[], None]) -> None:
        """Say when engines are to be told something else, for ever."""
        while True:
            if self._look():
                log.info("the keys or the scrape token of engines have changed: their access files are written anew")
                changed()
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self) -> bool:
        if self._keys is None:
            return False
        text, trouble = self.text, ""
        try:
            text = self._read()
        except (OSError, ValueError) as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            log.warning("engines keep the access file that they have: %s", trouble)
        before, self.text, self._trouble = self.text, text, trouble
        return text != before

    def _read(self) -> str:
        """Every key of the directory: the one that signs, and those that signed before or will sign next."""
        assert self._keys is not None
        public = {}
        for path in sorted(self._keys.glob("*.pem")):
            try:
                key = SigningKey(path.read_bytes())
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            public[key.kid] = key.public_jwk
        if len(public) > MAX_KEYS:
            raise ValueError(f"{self._keys} has {len(public)} keys and engines read {MAX_KEYS}: remove the oldest")
        digests = [hashlib.sha256(self._token()).hexdigest()] if self._scrape_token else []
        return access_text(public.values(), digests, metrics_open=self._metrics_open)

    def _token(self) -> bytes:
        assert self._scrape_token is not None
        token = self._scrape_token.read_bytes().strip()
        if not token:
            raise ValueError(f"{self._scrape_token} is empty: put a long random text there")
        return token
