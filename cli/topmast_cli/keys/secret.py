"""The Secret of API keys, changed one entry at a time: what others write at the same moment is never lost."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from kubernetes import client
from urllib3.exceptions import HTTPError

from topmast_cli.cluster import TIMEOUT_S
from topmast_cli.failure import Failure

_TRIES = 5
_MANAGER = "topmast-cli"
_MERGE = "application/merge-patch+json"

# Called with all entries of the version that is about to be changed; Failure where the change is not allowed by them.
Check = Callable[[Mapping[str, str]], None]


class KeySecret:
    """Entries by key name. Failure says why nothing was read or changed, and what to do."""

    def __init__(self, core: client.CoreV1Api, namespace: str, name: str) -> None:
        self._core = core
        self._place = {"namespace": namespace, "name": name, "_request_timeout": TIMEOUT_S}
        self._named = f"Secret {namespace}/{name}"

    def entries(self) -> dict[str, str]:
        """Every entry as text; one that is none is empty."""
        return _entries(self._read())

    def add(self, name: str, entry: str, check: Check | None = None) -> None:
        """Write a new entry; Failure when the name is taken."""

        def is_free(entries: Mapping[str, str]) -> None:
            if name in entries:
                raise Failure(f"{self._named} has a key {name!r} already: choose another name, or revoke it")

        self._change(name, entry, check, is_free)

    def put(self, name: str, entry: str, check: Check) -> None:
        """Write an entry, in place of the one of this name."""
        self._change(name, entry, check)

    def remove(self, name: str, check: Check | None = None) -> None:
        """Remove an entry; Failure when there is none."""

        def is_there(entries: Mapping[str, str]) -> None:
            if name not in entries:
                raise Failure(f"{self._named} has no key {name!r}: `topmast key list` shows those it has")

        self._change(name, None, check, is_there)

    def _change(self, name: str, entry: str | None, *checks: Check | None) -> None:
        encoded = None if entry is None else base64.b64encode(entry.encode()).decode()
        for _ in range(_TRIES):
            secret = self._read()
            for check in filter(None, checks):
                check(_entries(secret))
            # With the version that was looked at, so that of two who take one name at once only one gets it.
            version = secret.metadata.resource_version
            patch = {"metadata": {"resourceVersion": version}, "data": {name: encoded}}
            write = self._core.patch_namespaced_secret
            if self._ask("patch", write, body=patch, field_manager=_MANAGER, _content_type=_MERGE):
                return
        raise Failure(f"{self._named} was changed by others {_TRIES} times meanwhile: try again")

    def _read(self) -> Any:
        return self._ask("get", self._core.read_namespaced_secret)

    def _ask(self, verb: str, call: Callable[..., Any], **arguments: Any) -> Any:
        """The Secret; None where it is no longer the version that `arguments` name."""
        try:
            return call(**self._place, **arguments)
        except client.ApiException as error:
            if error.status == 409:
                return None
            raise Failure(self._refusal(error, verb)) from error
        except HTTPError as error:
            raise Failure(f"the API server did not answer: {error}. Is it up, and the one you mean?") from error

    def _refusal(self, error: client.ApiException, verb: str) -> str:
        if error.status == 404:
            return (
                f"there is no {self._named}: install the chart there, or say where it is with --namespace and --secret"
            )
        said = _sentence(error)
        if error.status in (401, 403):
            return f"you may not {verb} {self._named}: ask for the verbs get and patch on it ({said})"
        return f"the API server refused to {verb} {self._named}: {said}"


def _entries(secret: Any) -> dict[str, str]:
    return {name: _text(encoded) for name, encoded in sorted((secret.data or {}).items())}


def _sentence(error: client.ApiException) -> str:
    """The API server's own, of the Status that it answered with."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return f"HTTP {error.status} {error.reason}"


def _text(encoded: str) -> str:
    try:
        return base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
