"""The Secret of API keys, changed one entry at a time: what others write at the same moment is never lost."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from topmast_operator.act.client import Api, ApiError

_TRIES = 5
_CONFLICT = 409


class KeySecretError(Exception):
    """Why nothing was changed, and what to do."""


class KeySecret:
    """Entries by key name."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self._named = f"Secret {namespace}/{name}"

    async def entries(self) -> dict[str, str]:
        """Every entry as text; one that is none is empty."""
        return {name: _text(encoded) for name, encoded in sorted(((await self._read()).get("data") or {}).items())}

    async def add(self, name: str, entry: str) -> None:
        """Write a new entry; KeySecretError when the name is taken."""
        await self._change(name, base64.b64encode(entry.encode()).decode())

    async def remove(self, name: str) -> None:
        """Remove an entry; KeySecretError when there is none."""
        await self._change(name, None)

    async def _change(self, name: str, encoded: str | None) -> None:
        for _ in range(_TRIES):
            secret = await self._read()
            present = name in (secret.get("data") or {})
            if present and encoded is not None:
                raise KeySecretError(f"{self._named} has a key {name!r} already: choose another name, or revoke it")
            if not present and encoded is None:
                raise KeySecretError(f"{self._named} has no key {name!r}: `topmast key list` shows those it has")
            # With the version that was looked at, so that of two who take one name at once only one gets it.
            version = secret["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "data": {name: encoded}}
            try:
                await self._api.merge(self._path, patch)
                return
            except ApiError as error:
                if error.status != _CONFLICT:
                    raise self._refused(error, "patch") from error
        raise KeySecretError(f"{self._named} was changed by others {_TRIES} times meanwhile: try again")

    async def _read(self) -> dict[str, Any]:
        try:
            secret = await self._api.get(self._path)
        except ApiError as error:
            raise self._refused(error, "get") from error
        if secret is None:
            raise KeySecretError(
                f"there is no {self._named}: install the chart there, or say where it is with --namespace and --secret"
            )
        return secret

    def _refused(self, error: ApiError, verb: str) -> KeySecretError:
        if error.status in (401, 403):
            return KeySecretError(f"you may not {verb} {self._named}: ask for the verbs get and patch on it ({error})")
        return KeySecretError(f"the API server refused to {verb} {self._named}: {error}")


def _text(encoded: str) -> str:
    try:
        return base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
