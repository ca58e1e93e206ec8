"""Plays the kubelet on a real control plane: pods that the real scheduler placed come up as a test says.

It only does what a kubelet does through the API (Node status and Lease, pod status, the final delete of a pod), so
everything above it, from admission to the ReplicaSet controller, is the real thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pod_network import address
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError

Object = dict[str, Any]
POLL_S = 0.1


@dataclass(frozen=True)
class Fate:
    """What becomes of a model's pods. `ends`: exit code and termination message instead of getting ready."""

    start_s: float = 0.2
    ready: bool = True
    ends: tuple[int, str] | None = None
    ends_times: int = 3
    waiting: tuple[str, str] | None = None
    leave_s: float = 0.3
    ip: str = address(1)  # nothing listens there
    check_ends: tuple[int, str] | None = None  # of its check pod, instead of ending well


@dataclass
class PlayKubelet:
    """Nodes and fates; `start` runs it in a thread, `stop` ends that."""

    kubeconfig: str
    fates: dict[str, Fate] = field(default_factory=dict)  # by model or model/revision

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._stop = threading.Event()
        self._nodes: dict[str, Object] = {}
        self._seen: dict[str, float] = {}
        self._written: dict[str, Object] = {}
        self.deleted_at: dict[str, float] = {}
        self.problems: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def add_node(self, name: str, cpu: str = "8", memory: str = "16Gi", gpus: int = 0) -> None:
        amounts = {"cpu": cpu, "memory": memory, "pods": "110", "ephemeral-storage": "100Gi"}
        if gpus:
            amounts["nvidia.com/gpu"] = str(gpus)
        self._nodes[name] = {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Playing", "message": "", **_times()}],
        }

    async def _main(self) -> None:
        api = await Api.connect(self.kubeconfig)
        made: set[str] = set()
        renewed = 0.0
        try:
            while not self._stop.is_set():
                try:
                    for name in set(self._nodes) - made:
                        await self._make_node(api, name)
                        made.add(name)
                    if time.monotonic() - renewed > 8:
                        for name in made:
                            await self._renew(api, name)
                        renewed = time.monotonic()
                    for pod in await api.list("/api/v1/pods"):
                        await self._play(api, pod)
                except ApiError as error:
                    if error.status >= 500 or error.status == 429:  # an ailing server, as a real kubelet sees one
                        await asyncio.sleep(0.5)
                    elif error.status not in (404, 409):
                        self.problems.append(str(error))
                except ApiUnreachableError:
                    await asyncio.sleep(0.5)
                await asyncio.sleep(POLL_S)
        finally:
            await api.close()

    async def _make_node(self, api: Api, name: str) -> None:
        labels = {"kubernetes.io/hostname": name}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        with contextlib.suppress(ApiError):
            await api.request("POST", "/api/v1/nodes", body=body)
        await api.merge(f"/api/v1/nodes/{name}/status", {"status": self._nodes[name]})
        await api.merge(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})

    async def _renew(self, api: Api, name: str) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
        }
        await api.apply(f"{path}/{name}", body)

    async def _play(self, api: Api, pod: Object) -> None:
        meta = pod["metadata"]
        if pod["spec"].get("nodeName") not in self._nodes:
            return
        now = time.monotonic()
        since = now - self._seen.setdefault(meta["uid"], now)
        labels = meta.get("labels", {})
        checks = labels.get("topmast.dev/check", "")
        model = labels.get("topmast.dev/model", checks)
        fate = self.fates.get(f"{model}/{labels.get('topmast.dev/revision')}", self.fates.get(model, Fate()))
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if "deletionTimestamp" in meta:
            left = now - self.deleted_at.setdefault(meta["name"], now)
            if left >= fate.leave_s:
                await api.request("DELETE", path, query={"gracePeriodSeconds": "0"})
            return
        status = _check_status(pod, fate, since) if checks else _status(pod, fate, since)
        if self._written.get(meta["uid"]) != status:
            await api.merge(f"{path}/status", {"status": status})
            self._written[meta["uid"]] = status


def _status(pod: Object, fate: Fate, since_s: float) -> Object:
    container: Object = {"name": "engine", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    ready = False
    if fate.waiting:
        container["state"] = {"waiting": {"reason": fate.waiting[0], "message": fate.waiting[1]}}
    elif fate.ends:
        code, message = fate.ends
        ends = min(fate.ends_times, int(since_s / 0.4) + 1)
        last = {"terminated": {"exitCode": code, "reason": "Error", "message": message}}
        container |= {"restartCount": ends - 1, "state": last}
        if ends > 1:
            container["lastState"] = last
    else:
        ready = fate.ready and since_s >= fate.start_s
        container |= {
            "ready": ready,
            "started": True,
            "state": {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}},
        }
    text = "True" if ready else "False"
    return {
        "phase": "Running" if fate.waiting is None else "Pending",
        "podIP": fate.ip,
        "podIPs": [{"ip": fate.ip}],
        "hostIP": "127.0.0.1",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": pod["metadata"]["creationTimestamp"]},
            {"type": "Initialized", "status": "True"},
            {"type": "ContainersReady", "status": text},
            {"type": "Ready", "status": text, "lastTransitionTime": pod["metadata"]["creationTimestamp"]},
        ],
        "containerStatuses": [container],
    }


def _check_status(pod: Object, fate: Fate, since_s: float) -> Object:
    """A check pod ends well a moment after it was placed, unless its fate says otherwise."""
    if fate.waiting or fate.check_ends:
        return _status(pod, replace(fate, ends=fate.check_ends), since_s)
    status = _status(pod, Fate(ready=False), since_s)
    if since_s > fate.start_s:
        status["phase"] = "Succeeded"
        (container,) = status["containerStatuses"]
        container["state"] = {"terminated": {"exitCode": 0, "reason": "Completed", "message": '{"code": "Ok"}'}}
    return status


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _times() -> Object:
    return {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
