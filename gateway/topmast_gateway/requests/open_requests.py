"""Requests that are open, by caller: they end when their API key is taken away."""

from __future__ import annotations

from types import TracebackType

from topmast_gateway.identity.api_keys import ApiKeys
from topmast_gateway.identity.caller import Caller
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.interruption import Interruption

_REVOKED = "this API key was revoked while the answer was generated: ask your administrator for a new one"


class OpenRequests:
    """Each from its body's end to the last byte of its answer."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, set[Interruption]] = {}  # by the SHA-256 of the API key

    def of(self, caller: Caller, interruption: Interruption) -> OpenRequest:
        """Its block is ended by `interruption` when its caller's API key is revoked. A token has none."""
        return OpenRequest(self._by_key, caller.key_digest, interruption)

    def end_revoked(self, keys: ApiKeys) -> None:
        """End the requests of keys that are not among these any more."""
        for digest in [digest for digest in self._by_key if digest not in keys]:
            for interruption in list(self._by_key[digest]):
                interruption.interrupt(ApiError(401, "invalid_api_key", _REVOKED))


class OpenRequest:
    """`with`: it is one of those of its key; of no key, where that is empty."""

    __slots__ = ("_by_key", "_digest", "_interruption")

    def __init__(self, by_key: dict[bytes, set[Interruption]], digest: bytes, interruption: Interruption) -> None:
        self._by_key = by_key
        self._digest = digest
        self._interruption = interruption

    def __enter__(self) -> None:
        if self._digest:
            self._by_key.setdefault(self._digest, set()).add(self._interruption)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._digest:
            (left := self._by_key[self._digest]).discard(self._interruption)
            if not left:
                del self._by_key[self._digest]
