"""One cluster's life, told in this order on a cluster of its own: start, work, grow, suffer, crash, end."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from checkout import cluster_name
from cluster.python_image import PYTHON, REFERENCE, write_python_image
from cluster.waiting import until
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.cluster import Cluster
from topmast_cluster.progress import Progress

NAME = cluster_name("life")
pytestmark = pytest.mark.story


@dataclass
class Life:
    cluster: Cluster
    image: Path
    tables_before: str
    starts_s: list[float] = field(default_factory=list)

    def start(self, **wanted: Any) -> None:
        began = time.monotonic()
        self.cluster.start(**wanted)
        self.starts_s.append(time.monotonic() - began)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    cluster = Cluster(NAME, Progress(quiet=True))
    cluster.stop()  # an earlier run may have been killed
    _ = cluster.binaries  # building them is not part of starting
    image = tmp_path_factory.mktemp("image") / "python.tar"
    write_python_image(image)
    life = Life(cluster, image, nft_tables())
    life.start(nodes=1, gpus={"node-1": 1})
    try:
        yield life
    finally:
        cluster.stop()


def nft_tables() -> str:
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout


def web(name: str, **spec: object) -> str:
    """A pod that serves HTTP, under the restricted rules that our own pods obey."""
    container = {
        "name": "web",
        "image": REFERENCE,
        "args": ["-m", "http.server", "8000", "--directory", "/proc/self"],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "resources": spec.pop("resources", {}),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    metadata = {"name": name, "labels": {"app": name}}
    spec |= {"containers": [container], "terminationGracePeriodSeconds": 0}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def run_web(cluster: Cluster, name: str, **spec: object) -> str:
    """Runs such a pod until Ready; its address."""
    cluster.kubectl("apply", "-f", "-", stdin=web(name, **spec))
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=55s")
    return cluster.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}").stdout


def answers(address: str, port: int = 8000) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/status", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def answers_from_pod(cluster: Cluster, pod: str, url: str) -> bool:
    code = f"import urllib.request; print(urllib.request.urlopen('{url}/status', timeout=2).status)"
    return cluster.kubectl("exec", pod, "--", PYTHON, "-c", code, check=False).stdout.strip() == "200"


def pids(cluster: Cluster) -> dict[str, int]:
    files = sorted(cluster.paths.state.glob("*/*.pid"))
    return {str(file): json.loads(file.read_text())["pid"] for file in files}


def runs(cluster: Cluster) -> bool:
    return until(lambda: cluster.status().state == "running")


def test_after_a_start_it_runs_with_its_node(life: Life) -> None:
    assert runs(life.cluster)
    assert until(lambda: life.cluster.status().nodes == {"node-1": "Ready"})


def test_a_restricted_pod_runs_and_gives_logs_and_exec(life: Life) -> None:
    life.cluster.load_image(life.image)
    address = run_web(life.cluster, "first")
    assert until(lambda: answers(address))
    assert until(lambda: "Serving HTTP" in life.cluster.kubectl("logs", "first").stdout)
    said = life.cluster.kubectl("exec", "first", "--", PYTHON, "-c", "import os; print(os.getuid())").stdout
    assert said.strip() == "65532"


def test_a_service_is_reached_from_the_host_and_from_its_own_pod(life: Life) -> None:
    life.cluster.kubectl("expose", "pod", "first", "--port=80", "--target-port=8000")
    address = life.cluster.kubectl("get", "service", "first", "-o", "jsonpath={.spec.clusterIP}").stdout
    assert until(lambda: answers(address, 80))
    assert until(lambda: answers_from_pod(life.cluster, "first", f"http://{address}"))


def test_a_name_lookup_in_a_pod_fails_at_once_rather_than_hanging(life: Life) -> None:
    code = """
import socket, time
began = time.monotonic()
try:
    socket.gethostbyname_ex("example.com")
except socket.gaierror:
    print(time.monotonic() - began)"""
    took_s = life.cluster.kubectl("exec", "first", "--", PYTHON, "-c", code).stdout
    assert float(took_s) < 5


def test_advertised_gpus_are_scarce(life: Life) -> None:
    one_gpu = {"limits": {"nvidia.com/gpu": "1"}}
    run_web(life.cluster, "has-the-gpu", resources=one_gpu)
    # A Deployment: a kubelet that has not heard of the new GPU yet refuses a pod for good, and another one is made.
    pod = json.loads(web("wants-one", resources=one_gpu))
    labels = pod["metadata"]["labels"]
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod["spec"]}}
    wants = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "wants-one"}, "spec": spec}
    life.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(wants))
    reason = ("-l", "app=wants-one", "-o", 'jsonpath={.items[*].status.conditions[?(@.type=="PodScheduled")].message}')
    pending = "Insufficient nvidia.com/gpu"
    assert until(lambda: pending in life.cluster.kubectl("get", "pods", *reason).stdout)
    life.cluster.set_gpus("node-1", 2)
    life.cluster.kubectl("wait", "--for=condition=Available", "deployment/wants-one", "--timeout=55s")
    life.cluster.kubectl("delete", "deployment/wants-one", "pod/has-the-gpu", "--wait=false")


def test_a_second_start_changes_nothing(life: Life) -> None:
    before = pids(life.cluster)
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        life.cluster.start(nodes=1)
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 5, took_s
    assert pids(life.cluster) == before


def test_an_outage_of_the_api_server_touches_nothing_else(life: Life) -> None:
    address = life.cluster.kubectl("get", "service", "first", "-o", "jsonpath={.spec.clusterIP}").stdout
    life.cluster.stop_apiserver()
    assert life.cluster.kubectl("get", "nodes", check=False).returncode != 0
    assert until(lambda: answers(address, 80))
    others = {name: alive for name, alive in life.cluster.status().daemons.items() if "apiserver" not in name}
    assert all(others.values())
    life.cluster.start_apiserver()
    assert runs(life.cluster)


def test_a_second_node_has_the_images_and_is_reached_from_everywhere(life: Life) -> None:
    life.cluster.start(nodes=2, gpus={"node-2": 3})
    address = run_web(life.cluster, "second", nodeName="node-2")
    assert until(lambda: answers(address))
    assert until(lambda: answers_from_pod(life.cluster, "first", f"http://{address}:8000"))
    gpus = "jsonpath={.status.allocatable.nvidia\\.com/gpu}"
    assert life.cluster.kubectl("get", "node", "node-2", "-o", gpus).stdout == "3"


def test_a_killed_node_is_gone_at_once_and_comes_back_with_its_pods(life: Life) -> None:
    address = life.cluster.kubectl("get", "pod", "second", "-o", "jsonpath={.status.podIP}").stdout
    life.cluster.kill_node("node-2")
    assert not answers(address)
    assert life.cluster.status().nodes["node-2"] == "down"
    life.cluster.restart_node("node-2")
    where = "jsonpath={.status.podIP}"
    assert until(lambda: answers(life.cluster.kubectl("get", "pod", "second", "-o", where).stdout or "127.0.0.1"))


def test_services_stay_reachable_from_the_host_when_the_first_node_dies(life: Life) -> None:
    life.cluster.kubectl("expose", "pod", "second", "--port=80", "--target-port=8000")
    address = life.cluster.kubectl("get", "service", "second", "-o", "jsonpath={.spec.clusterIP}").stdout
    assert until(lambda: answers(address, 80))
    life.cluster.kill_node("node-1")
    assert until(lambda: answers(address, 80), 15)


def test_after_a_crash_of_everything_a_start_clears_the_wreck_and_begins_anew(life: Life) -> None:
    for pid in Cgroup(life.cluster.names.cgroup).members():
        with suppress(ProcessLookupError):  # it ended when another one of them was killed
            os.kill(pid, signal.SIGKILL)
    assert until(lambda: life.cluster.status().state == "broken")
    life.start(nodes=1)
    assert runs(life.cluster)
    assert "No resources found" in life.cluster.kubectl("get", "pods").stderr
    life.cluster.load_image(life.image)
    address = run_web(life.cluster, "after-the-crash")
    assert until(lambda: answers(address))


def test_it_is_ready_within_30_s(life: Life) -> None:
    """Once, of the two starts from nothing: what else the machine did during one of them says nothing."""
    assert min(life.starts_s) < 30, life.starts_s


def test_stop_leaves_nothing_even_of_a_cluster_that_is_half_dead_and_has_lost_its_records(life: Life) -> None:
    cluster = life.cluster
    for pid_file in (cluster.paths.control_plane / "etcd.pid", cluster.paths.node("node-1") / "containerd.pid"):
        os.kill(json.loads(pid_file.read_text())["pid"], signal.SIGKILL)
    cluster.paths.record.write_text("{")
    cluster.stop()
    assert traces(cluster) == []
    assert nft_tables() == life.tables_before
    assert cluster.status().state == "absent"
    cluster.stop()  # and once more, of nothing


def traces(cluster: Cluster) -> list[str]:
    """What the machine still has of the cluster, found without the cluster's own code."""
    state = str(cluster.paths.state)
    found = [state] if Path(state).exists() else []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            group = (entry / "cgroup").read_text()
            dead = "\nState:\tZ" in (entry / "status").read_text()  # waits for PID 1, which takes its time
        except OSError:
            continue
        if not dead and (f"{state}/" in command or f"/{NAME}" in group):
            found.append(f"process {entry.name}: {command}")
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if NAME in line]
    found += [str(path) for pattern in (NAME, f"*/{NAME}") for path in Path("/sys/fs/cgroup").glob(pattern)]
    for command in (["ip", "-d", "link"], ["ip", "netns"], ["ip", "route", "show", "table", "all"]):
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found += [line for line in lines if NAME in line or cluster.names.host_link in line]
    if not any(Path("/run/netns").glob("topmast*-node-*")):  # then nobody else uses the shared places
        for place in ("/var/log/containers", "/run/containerd/s", "/var/lib/cni/results", "/var/lib/kubelet"):
            found += [str(path) for path in Path(place).glob("*")]
    return found
