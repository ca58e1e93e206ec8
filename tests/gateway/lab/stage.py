"""What the tests change: LLMDeployments, pods and keys, through a real API server; and gateways that watch them.

There is no kubelet: a pod here is the object alone, with a status that the test writes, and its IP is an engine's
loopback address. It is bound to no node, so that no controller takes it for lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kubernetes import client, config

KEY = "tm-" + "k" * 40
SYSTEM, SECRET = "topmast-system", "topmast-api-keys"
SHARED_TOKEN = "t" * 40
_NAMES = itertools.count(1)
_LONGEST_LOOK_S = 0.5  # what is longer is no look at the product but a machine that stood still


def hashed(key: str) -> str:
    """A key as the Secret holds it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class _Wait:
    """Counts the seconds of a wait, look by look: while this process stands still, it cannot see what has come."""

    def __init__(self, what: str, timeout_s: float, clock: Callable[[], float]) -> None:
        self._what, self._timeout_s, self._clock = what, timeout_s, clock
        self._looked_at = clock()
        self.seconds = 0.0

    def goes_on(self) -> None:
        """Another look is needed; fails when there have been looks for long enough."""
        assert self.seconds < self._timeout_s, f"not within {self._timeout_s} s: {self._what}"
        now = self._clock()
        self.seconds += min(now - self._looked_at, _LONGEST_LOOK_S)
        self._looked_at = now


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 10.0) -> float:
    """Seconds until `check` held; fails with `what` when it never did."""
    wait = _Wait(what, timeout_s, time.monotonic)
    while not check():
        wait.goes_on()
        time.sleep(0.02)
    return wait.seconds


async def soon(check: Callable[[], bool], what: str, timeout_s: float = 10.0) -> float:
    """`eventually`, while the test's own servers go on serving."""
    wait = _Wait(what, timeout_s, asyncio.get_running_loop().time)
    while not check():
        wait.goes_on()
        await asyncio.sleep(0.01)
    return wait.seconds


def seconds_at_the_gateway(access_log: Path, answer: httpx.Response) -> float:
    """How long the gateway worked on a request, by its own clock: ours may have stood still."""

    def found() -> list[float]:
        lines = map(json.loads, access_log.read_text().splitlines())
        return [line["seconds"] for line in lines if line["request"] == answer.headers["x-request-id"]]

    eventually(lambda: bool(found()), "the request is in the access log")
    return found()[0]


class Stage:
    """The cluster's side of a test."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        api = config.new_client_from_config(str(kubeconfig))
        self.core = client.CoreV1Api(api)
        self.rbac = client.RbacAuthorizationV1Api(api)
        self.custom = client.CustomObjectsApi(api)

    def namespace(self, name: str | None = None) -> str:
        """A namespace, with the service account that pods need: its controller may be late after an outage."""
        name = name or f"t-{next(_NAMES)}"
        self.core.create_namespace({"metadata": {"name": name}})
        try:
            self.core.create_namespaced_service_account(name, {"metadata": {"name": "default"}})
        except client.ApiException as error:
            assert error.status == 409
        return name

    def model(self, namespace: str, name: str, **spec: Any) -> None:
        """An LLMDeployment, which no operator acts on here."""
        body = {
            "apiVersion": "topmast.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": name},
            "spec": {"model": {"source": "image:///models/x.gguf"}, **spec},
        }
        self.custom.create_namespaced_custom_object("topmast.dev", "v1alpha1", namespace, "llmdeployments", body)

    def delete_model(self, namespace: str, name: str) -> None:
        self.custom.delete_namespaced_custom_object("topmast.dev", "v1alpha1", namespace, "llmdeployments", name)

    def pod(self, namespace: str, model: str, ip: str, *, ready: bool = True) -> Pod:
        """An engine pod at `ip`."""
        name = f"{model}-{next(_NAMES)}"
        labels = {
            "app.kubernetes.io/managed-by": "topmast",
            "app.kubernetes.io/name": "topmast-engine",
            "topmast.dev/model": model,
        }
        # The finalizer keeps a deleted pod in view with its deletionTimestamp, as a kubelet's grace period does.
        body = {
            "metadata": {"name": name, "labels": labels, "finalizers": ["test.topmast.dev/hold"]},
            "spec": {
                "schedulerName": "nobody",
                "automountServiceAccountToken": False,
                "containers": [{"name": "engine", "image": "none"}],
            },
        }
        self.core.create_namespaced_pod(namespace, body)
        pod = Pod(self, namespace, name, ip)
        pod.set_ready(ready)
        return pod

    def keys(self, **keys: str) -> None:
        """Replace all API keys, given in plain text."""
        data = {name: hashed(key) for name, key in keys.items()}
        self.raw_keys(data)

    @contextlib.contextmanager
    def debug_key(self, gateway: Gateway, **fields: Any) -> Iterator[str]:
        """A key that may see the routes of its requests, known to this gateway, for as long as the block runs."""
        key, known = f"tm-debug-{next(_NAMES)}", gateway.metric("topmast_gateway_api_keys")
        entry = json.dumps({"hash": hashed(key), "debug": True, **fields})
        self.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": {"debugger": entry}})
        eventually(lambda: gateway.metric("topmast_gateway_api_keys") == known + 1, "the key is known")
        try:
            yield key
        finally:
            self.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": {"debugger": None}})
            eventually(lambda: gateway.metric("topmast_gateway_api_keys") == known, "it is gone")

    def raw_keys(self, data: dict[str, str]) -> None:
        """Replace the Secret's entries as they are."""
        body = {"metadata": {"name": SECRET}, "stringData": data}
        try:
            self.core.delete_namespaced_secret(SECRET, SYSTEM)
        except client.ApiException as error:
            assert error.status == 404
        self.core.create_namespaced_secret(SYSTEM, body)


@dataclass
class Pod:
    """One pod object."""

    stage: Stage
    namespace: str
    name: str
    ip: str

    def set_ready(self, ready: bool) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": stamp}
        status = {"phase": "Running", "podIP": self.ip, "podIPs": [{"ip": self.ip}], "conditions": [condition]}
        self.stage.core.patch_namespaced_pod_status(self.name, self.namespace, {"status": status})

    def lose_sight(self) -> None:
        """What the node controller does when a kubelet has not reported for a while: only Ready turns False."""
        conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
        self.stage.core.patch_namespaced_pod_status(self.name, self.namespace, {"status": {"conditions": conditions}})

    def annotate(self, **annotations: str) -> None:
        named = {f"topmast.dev/{name}": value for name, value in annotations.items()}
        self.stage.core.patch_namespaced_pod(self.name, self.namespace, {"metadata": {"annotations": named}})

    def delete(self) -> None:
        """Marks it for deletion; the finalizer keeps it in view."""
        self.stage.core.delete_namespaced_pod(self.name, self.namespace)


class Gateway:
    """One `topmast gateway` process, as a container would run it."""

    def __init__(self, kubeconfig: Path, *flags: str, under: Sequence[str] = ()) -> None:
        """`under` are arguments of Python before the program's own, for a profiler."""
        command = [sys.executable, *under, "-m", "topmast_gateway.cli", "--host", "127.0.0.1", "--port", "0"]
        command += ["--admin-host", "127.0.0.1", "--admin-port", "0"]
        command += ["--keys-secret", SECRET, "--keys-namespace", SYSTEM]
        env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([*command, *flags], env=env, **pipes)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        eventually(lambda: self._addresses() is not None or self.process.poll() is not None, "the listening line", 30)
        addresses = self._addresses()
        assert addresses, "\n".join(self.lines)
        self.url, self.admin_url = (f"http://{address}" for address in addresses)

    def wait_ready(self) -> Gateway:
        eventually(lambda: self.ready() == 200, f"ready; it said {self.lines}", 30)
        return self

    def ready(self) -> int:
        """Status of /readyz; 0 when nobody answers."""
        try:
            return httpx.get(f"{self.admin_url}/readyz").status_code
        except httpx.TransportError:
            return 0

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        total = 0.0
        for line in httpx.get(f"{self.admin_url}/metrics").text.splitlines():
            if re.match(rf"{name}[ {{]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def queue(self) -> dict[str, Any]:
        """What it reports to the operator, by model."""
        answer = httpx.get(f"{self.admin_url}/queue", headers={"Authorization": f"Bearer {SHARED_TOKEN}"})
        found: dict[str, Any] = answer.raise_for_status().json()["models"]
        return found

    def usage(self) -> dict[str, Any]:
        """What it reports to other gateways; its --shared-token-file must hold SHARED_TOKEN."""
        answer = httpx.get(f"{self.admin_url}/usage", headers={"Authorization": f"Bearer {SHARED_TOKEN}"})
        return dict(answer.raise_for_status().json())

    def ready_pods(self, key: str) -> int:
        """Pods of a model that may be picked, as this gateway sees it; -1 while it does not know the model."""
        text = httpx.get(f"{self.admin_url}/metrics").text
        found = re.search(rf'topmast_gateway_ready_pods{{model="{key}"}} (\d+)', text)
        return int(found[1]) if found else -1

    def sees(self, key: str, pods: int, timeout_s: float = 10.0) -> None:
        """Wait until it knows this many usable pods."""
        eventually(lambda: self.ready_pods(key) == pods, f"{key} with {pods} pods", timeout_s)

    def resident_bytes(self) -> int:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        """Make sure that nothing is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def _addresses(self) -> tuple[str, str] | None:
        for line in list(self.lines):
            if found := re.search(r"listening on (\S+:\d+), admin on (\S+:\d+)", line):
                return found[1], found[2]
        return None
