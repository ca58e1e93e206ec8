"""Requests that are open, by caller: they end when their API key is taken away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from topmast_gateway.identity.api_keys import ApiKeys
from topmast_gateway.identity.caller import Caller
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.interruption import Interruption

_REVOKED = "this API key was revoked while the answer was generated: ask your administrator for a new one"


class OpenRequests:
    """Each from its body's end to the last byte of its answer."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, set[Interruption]] = defaultdict(set)  # by the SHA-256 of the API key

    @contextmanager
    def of(self, caller: Caller, interruption: Interruption) -> Iterator[None]:
        """The block is ended by `interruption` when its caller's API key is revoked. A token has none."""
        if not (digest := caller.key_digest):
            yield
            return
        self._by_key[digest].add(interruption)
        try:
            yield
        finally:
            self._by_key[digest].discard(interruption)
            if not self._by_key[digest]:
                del self._by_key[digest]

    def end_revoked(self, keys: ApiKeys) -> None:
        """End the requests of keys that are not among these any more."""
        for digest in [digest for digest in self._by_key if digest not in keys]:
            for interruption in list(self._by_key[digest]):
                interruption.interrupt(ApiError(401, "invalid_api_key", _REVOKED))
