"""The one door to the API server: the official client's connection and credentials, plain JSON in and out.

Owns timeouts and error sentences. Typed models are left out on purpose: they cost more CPU than the calls.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config

from topmast_operator.api.names import MANAGER

TIMEOUT_S = 10.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class ApiError(Exception):
    """The API server said no. `status` is the HTTP code; the text is the server's own sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiUnreachableError(Exception):
    """No answer from the API server: worth another try, whatever was asked."""


class Api:
    """Requests by path. Made by `connect`, ended by `close`."""

    def __init__(self, api_client: Any) -> None:
        self._client = api_client

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Self:
        """With this kubeconfig; else the pod's service account where there is one; else the user's kubeconfig."""
        configuration = client.Configuration()
        if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        content_type: str = "application/json",
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """The answer's JSON. Raises ApiError for an answer that is a refusal, ApiUnreachableError for none."""
        try:
            call = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*call, _request_timeout=timeout_s)
            raw = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as broken:
            raise ApiUnreachableError(f"the API server did not answer {method} {path}: {broken!r}") from broken
        if answer.status >= 300:
            raise ApiError(answer.status, _sentence(raw, answer.status))
        decoded: dict[str, Any] = json.loads(raw)
        return decoded

    async def get(self, path: str) -> dict[str, Any] | None:
        """An object, or None when there is none."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, path: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects under a collection, by pages."""
        items: list[dict[str, Any]] = []
        query = {"limit": "500"} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self.request("GET", path, query=query)
            items += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return items
            query = {**query, "continue": token}

    async def apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply under the operator's own name; takes its own fields back from others."""
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self.request("PATCH", path, query=query, body=manifest, content_type=APPLY)

    async def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        query = {"fieldManager": MANAGER}
        return await self.request("PATCH", path, query=query, body=patch, content_type=MERGE)

    async def delete(self, path: str) -> None:
        """Delete in the background; an object that is gone already is fine."""
        try:
            await self.request("DELETE", path, query={"propagationPolicy": "Background"})
        except ApiError as error:
            if error.status != 404:
                raise


def _sentence(raw: bytes, status: int) -> str:
    try:
        message = json.loads(raw).get("message")
    except ValueError:
        message = None
    return str(message or raw[:300].decode(errors="replace") or f"HTTP {status}")
