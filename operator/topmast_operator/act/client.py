"""The one door to the API server: the official client's connection and credentials, plain JSON in and out.

Owns timeouts, error sentences and the fence in front of writes. Typed models are left out on purpose: they cost more
CPU than the calls.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio import client, config

from topmast_operator.api.names import MANAGER

TIMEOUT_S = 10.0
PAGE = 500  # objects
JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class ApiError(Exception):
    """The API server said no. `status` is the HTTP code; the text is the server's own sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiUnreachableError(Exception):
    """No answer from the API server: worth another try, whatever was asked."""


class FencedError(Exception):
    """Nothing was written, because this process may not act now: its Lease is lost, or about to run out."""


Page = list[dict[str, Any]]
Fence = Callable[[], float]  # seconds for which writing is still allowed; 0 or less: not now
Noted = Callable[[Mapping[str, Any]], None]  # takes the answer to each write


class Api:
    """Requests by path. Made by `connect`, ended by `close`."""

    def __init__(self, api_client: Any, fence: Fence | None = None, noted: Noted | None = None) -> None:
        self._client = api_client
        self._fence = fence
        self._noted = noted

    def fenced(self, fence: Fence, noted: Noted) -> "Api":
        """The same connection for one who acts: each write asks the fence first, and its answer is noted."""
        return Api(self._client, fence, noted)

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Self:
        """With this kubeconfig; else the pod's service account where there is one; else the user's kubeconfig."""
        configuration = client.Configuration()
        if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        # Where nobody sets a proxy: aiohttp would look into ~/.netrc too, in another thread, for every request.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
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
        content_type: str = JSON,
        accept: str = JSON,
        timeout_s: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """The answer's JSON.

        Raises ApiError for an answer that is a refusal, ApiUnreachableError for none, FencedError for a write that was
        not even tried. A write is given up when the time to write runs out, not only before it begins.
        """
        writes = method != "GET"
        if writes and self._fence is not None:
            left_s = self._fence()
            if left_s <= 0:
                raise FencedError(f"{method} {path} was not sent: the Lease is not held")
            timeout_s = min(timeout_s, left_s)
        try:
            call = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": content_type},
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
        if writes and self._noted is not None:
            self._noted(decoded)
        return decoded

    async def get(self, path: str) -> dict[str, Any] | None:
        """An object, or None when there is none."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, path: str, selector: str = "", *, field_selector: str = "", accept: str = JSON) -> Page:
        """All objects under a collection, by pages."""
        items: Page = []
        async for page in self.pages(path, selector, field_selector=field_selector, accept=accept):
            items += page
        return items

    async def pages(
        self, path: str, selector: str = "", *, field_selector: str = "", accept: str = JSON
    ) -> AsyncIterator[Page]:
        """The objects under a collection, a page at a time: who keeps little of each never holds them all."""
        query = {"limit": str(PAGE), "labelSelector": selector, "fieldSelector": field_selector}
        query = {name: value for name, value in query.items() if value}
        while True:
            page = await self.request("GET", path, query=query, accept=accept)
            yield page["items"] or []  # a list of metadata alone says null for none
            token = page["metadata"].get("continue")
            if not token:
                return
            query = {**query, "continue": token}

    async def apply(self, path: str, manifest: Mapping[str, Any], *, resource_version: str = "") -> dict[str, Any]:
        """Server-side apply under the operator's own name; takes its own fields back from others.

        With a resource_version it is refused with 409 when the object is another one by now: for what takes away.
        """
        query = {"fieldManager": MANAGER, "force": "true"}
        if resource_version:
            manifest = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": resource_version}}
        return await self.request("PATCH", path, query=query, body=manifest, content_type=APPLY)

    async def merge(self, path: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        query = {"fieldManager": MANAGER}
        return await self.request("PATCH", path, query=query, body=patch, content_type=MERGE)

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> None:
        """Delete in the background; an object that is gone already is fine.

        With a uid or a resource_version only that very object, or that version of it: else ApiError 409.
        """
        asked = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in asked.items() if value}
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if preconditions:
            body["preconditions"] = preconditions
        try:
            await self.request("DELETE", path, body=body)
        except ApiError as error:
            if error.status != 404:
                raise


def _sentence(raw: bytes, status: int) -> str:
    try:
        message = json.loads(raw).get("message")
    except ValueError:
        message = None
    return str(message or raw[:300].decode(errors="replace") or f"HTTP {status}")
