"""Played nodes for a thousand pods, in a process of its own: pods become ready, answer `/state`, and leave when told.

    python -m operator_bench.fleet KUBECONFIG NODES

It does what kubelet and engine do through the API and the network, and nothing else, so its own cost is small: it
watches pods instead of listing them, and each engine is a socket in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from operatorlab.reader import connection

from pod_network import address

Object = dict[str, Any]

STATE: Final = {
    "phase": "ready",
    "load": {"bytes_done": 100, "bytes_total": 100},
    "start": {"total_s": 1.0},
    "work": {"running": 0, "waiting": 0, "requests_total": 7, "input_tokens_total": 70, "output_tokens_total": 70},
    "capacity": {"prefill_tokens_per_s": 900.0, "decode_tokens_per_s": 90.0, "kv_tokens": 1000},
}
_BODY: Final = json.dumps(STATE).encode()
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
AT_ONCE: Final = 16
SELECTOR: Final = "app.kubernetes.io/managed-by=topmast"


class Engine(asyncio.Protocol):
    """Answers whatever it is asked with its state."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            self._transport.write(_ANSWER)  # type: ignore[attr-defined]


class Fleet:
    """The nodes, and every pod of Topmast's on them."""

    def __init__(self, kubeconfig: Path, nodes: int) -> None:
        self._server, self._tls = connection(kubeconfig)
        self._nodes = [f"node-{number}" for number in range(nodes)]
        self._addresses = itertools.count(1)
        self._known: dict[str, bool] = {}  # uid -> made ready
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=AT_ONCE + 4)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._http:
            for name in self._nodes:
                await self._make(name)
            print("ready", flush=True)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew())
                await self._play(tasks)

    async def _play(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            listed = await self._call("GET", f"/api/v1/pods?labelSelector={SELECTOR}")
            for pod in listed["items"]:
                tasks.create_task(self._take(pod))
            since = listed["metadata"]["resourceVersion"]
            query = f"watch=1&labelSelector={SELECTOR}&resourceVersion={since}&timeoutSeconds=300"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._http.get(f"{self._server}/api/v1/pods?{query}") as answer:
                    async for line in answer.content:
                        change = json.loads(line)
                        if change["type"] in ("ADDED", "MODIFIED"):
                            tasks.create_task(self._take(change["object"]))

    async def _take(self, pod: Object) -> None:
        meta = pod["metadata"]
        if pod["spec"].get("nodeName") not in self._nodes:
            return
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        async with self._slots:
            if "deletionTimestamp" in meta:
                await self._call("DELETE", f"{path}?gracePeriodSeconds=0")
            elif not self._known.get(meta["uid"]):
                self._known[meta["uid"]] = True
                await self._call("PATCH", f"{path}/status", {"status": await self._status(meta["creationTimestamp"])})

    async def _status(self, since: str) -> Object:
        number = next(self._addresses)
        ip = address(number)
        await asyncio.get_running_loop().create_server(Engine, ip, 8001)
        types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        container = {
            "name": "engine",
            "image": "x",
            "imageID": "",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": since}},
        }
        return {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "hostIP": "127.0.0.1",
            "conditions": [{"type": name, "status": "True", "lastTransitionTime": since} for name in types],
            "containerStatuses": [container],
        }

    async def _make(self, name: str) -> None:
        amounts = {"cpu": "4000", "memory": "16000Gi", "pods": "20000", "nvidia.com/gpu": "8"}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Playing", "message": "", "lastTransitionTime": now}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        await self._call("POST", "/api/v1/nodes", body)
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [{**ready, "lastHeartbeatTime": now}]}
        await self._call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status})
        await self._call("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}})

    async def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        while True:
            for name in self._nodes:
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
                body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
                if not await self._call("PATCH", f"{path}/{name}", {"spec": spec}):
                    await self._call("POST", path, {**body, "spec": spec})
            await asyncio.sleep(8)

    async def _call(self, method: str, path: str, body: Object | None = None) -> Object:
        """The answer; empty for a refusal: the object has left, or is there already."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = json.dumps(body) if body is not None else None
        headers = {"Content-Type": kind}
        async with self._http.request(method, self._server + path, data=data, headers=headers) as answer:
            raw = await answer.read()
            return dict(json.loads(raw)) if answer.status < 300 else {}


if __name__ == "__main__":
    asyncio.run(Fleet(Path(sys.argv[1]), int(sys.argv[2])).run())
