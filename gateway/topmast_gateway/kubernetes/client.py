"""The API server, seen through the official client's connection: one GET and one watch, both as plain JSON.

The client brings credentials, TLS and token refresh. Its generated models and its Watch class stay out: they cost
memory per object, and the Watch retries on its own terms. This module never writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

Json = dict[str, Any]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=20, sock_connect=3)


class KubeError(Exception):
    """The API server answered, but not with what was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoCluster(Exception):
    """There is no usable way to an API server; the text says what to set."""


class KubeClient:
    """Read access to one API server."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, path: str, query: Mapping[str, str]) -> Json:
        """One object or list; ApiError unless the answer is 200."""
        response = await self._request(path, query, _LIST_TIMEOUT)
        try:
            body = await response.read()
        finally:
            response.release()
        if response.status != 200:
            raise KubeError(response.status, _message(body, response.status))
        answer: Json = json.loads(body)
        return answer

    async def watch(self, path: str, query: Mapping[str, str], *, last_s: int) -> AsyncIterator[Json]:
        """Events from `query["resourceVersion"]` on, until the server ends the watch after `last_s` seconds.

        Raises TimeoutError when the connection stays silent well beyond that: a half-open connection looks idle.
        """
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(last_s)}
        quiet = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=last_s + 10)
        response = await self._request(path, asked, quiet)
        try:
            if response.status != 200:
                raise KubeError(response.status, _message(await response.read(), response.status))
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)
        finally:
            response.close()

    async def close(self) -> None:
        """End every connection."""
        await self._client.close()

    async def _request(
        self, path: str, query: Mapping[str, str], limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        try:
            serialized = await self._client.param_serialize(
                method="GET",
                resource_path=path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
            )
        except config.ConfigException as error:  # the token's file is being replaced, or gone
            raise KubeError(401, str(error)) from error
        reply = await self._client.call_api(*serialized, _request_timeout=limits)
        response: aiohttp.ClientResponse = reply.response
        return response


async def connect_to_cluster() -> KubeClient:
    """The cluster this process runs in, else the one of KUBECONFIG or ~/.kube/config."""
    settings = Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and (_ACCOUNT / "token").exists():
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise NoCluster(f"no cluster to watch ({error}): run in a pod, or set KUBECONFIG") from error
    return KubeClient(ApiClient(settings))


def own_namespace() -> str:
    """The namespace of the pod that this process runs in; `default` outside of pods."""
    try:
        return (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return "default"


def _message(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"
