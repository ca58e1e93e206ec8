"""The control plane of a measurement, what is put into it, and what its audit log tells of the operator."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from operatorlab.playkubelet import PlayKubelet
from operatorlab.world import SYSTEM, Process, World

from checkout import cluster_name
from pod_network import pod_network
from topmast_cluster.cluster import Cluster
from topmast_operator.act.client import Api

Object = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
NODES: Final = 4
NAMESPACES: Final = 10
AT_ONCE: Final = 16
FOREIGN: Final = "foreign"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """An operator process so far: processor seconds, resident memory now and at its peak."""

    cpu_s: float
    rss_mib: float
    peak_mib: float


def usage(process: Process) -> Usage:
    proc = Path(f"/proc/{process.popen.pid}")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    told = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    rss, peak = (int(told[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, round(rss, 1), round(peak, 1))


@contextlib.contextmanager
def town(directory: Path) -> Iterator[World]:
    """A control plane with our CRD, the operator's rights, and a fleet of nodes; ended at the end."""
    with pod_network():
        yield from _towns(directory)


def _towns(directory: Path) -> Iterator[World]:
    cluster = Cluster(cluster_name("bench-op"))
    cluster.stop()
    fleet = None
    try:
        cluster.start(nodes=0)
        world = World(cluster, PlayKubelet(str(cluster.kubeconfig)), directory)
        cluster.apply_crds(ROOT / "crds")
        for name in (SYSTEM, FOREIGN, *namespaces()):
            world.kubectl("create", "namespace", name)
        world.grant("operator")
        command = [sys.executable, "-m", "operator_bench.fleet", str(cluster.kubeconfig), str(NODES)]
        path = os.pathsep.join([str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")])
        fleet = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, text=True)
        assert fleet.stdout is not None and fleet.stdout.readline() == "ready\n", "the fleet did not start"
        yield world
    finally:
        if fleet is not None:
            fleet.terminate()
            fleet.wait(timeout=10)
        cluster.stop()


def namespaces() -> list[str]:
    return [f"town-{number}" for number in range(NAMESPACES)]


def models(count: int, **spec: Any) -> list[Object]:
    """Manifests of so many models over all namespaces."""
    names = namespaces()
    return [
        {
            "apiVersion": "topmast.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": f"m-{number}", "namespace": names[number % len(names)]},
            "spec": {"model": {"source": "image:///models/m.gguf"}, "resources": {"cpu": "100m"}, **spec},
        }
        for number in range(count)
    ]


def strangers(count: int) -> list[Object]:
    """Pods of others, of a usual size; one in a hundred holds a device."""
    return [_stranger(number) for number in range(count)]


def _stranger(number: int) -> Object:
    amounts = {"cpu": "10m", "memory": "16Mi"} | ({"nvidia.com/gpu": "1"} if number % 100 == 0 else {})
    container = {
        "name": "main",
        "image": "registry.example/team/service:1.2.3",
        "env": [{"name": f"SETTING_{index}", "value": "some value of usual length"} for index in range(20)],
        "resources": {"requests": amounts, "limits": amounts},
    }
    labels = {f"example.com/label-{index}": f"value-{number % 7}" for index in range(8)}
    spec = {"nodeName": f"node-{number % NODES}", "containers": [container]}
    metadata = {"name": f"stranger-{number}", "namespace": FOREIGN, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def create(world: World, path: str, bodies: Iterable[Object]) -> float:
    """Create them, some at a time; the seconds that it took. `{}` in the path is the namespace."""

    async def all_of_them() -> None:
        api = await Api.connect(str(world.cluster.kubeconfig))
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(body: Object) -> None:
            async with slots:
                await api.request("POST", path.format(body["metadata"]["namespace"]), body=body)

        try:
            async with asyncio.TaskGroup() as tasks:
                for body in bodies:
                    tasks.create_task(one(body))
        finally:
            await api.close()

    started = time.monotonic()
    asyncio.run(all_of_them())
    return time.monotonic() - started


def listed(world: World, path: str) -> list[Object]:
    """All objects of a collection."""
    found = world.reader.get(path)
    return list(found["items"]) if found else []


def count(world: World, path: str) -> int:
    """How many they are, without reading them."""
    found = world.reader.get(f"{path}?limit=1")
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0)) if found else 0


def asked(world: World, since: float, until: float = float("inf")) -> Counter[str]:
    """The operator's requests between two Unix times, by verb and resource; its Lease and open watches apart."""
    user = f"system:serviceaccount:{SYSTEM}:operator"
    found: Counter[str] = Counter()
    whole, _, _ = world.cluster.audit_log.read_text().rpartition("\n")
    for line in whole.splitlines():
        event = json.loads(line)
        ref = event.get("objectRef", {})
        if event["user"]["username"] != user or event["verb"] == "watch" or ref.get("resource") == "leases":
            continue
        at = calendar.timegm(time.strptime(event["requestReceivedTimestamp"][:19], "%Y-%m-%dT%H:%M:%S"))
        if since <= at < until:
            found[f"{event['verb']} {ref.get('resource', event['requestURI'])}"] += 1
    return found


def writes(requests: Counter[str]) -> int:
    return sum(count for name, count in requests.items() if name.split()[0] not in ("get", "list"))
