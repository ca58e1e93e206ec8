"""`make up` on a cluster that somebody brings along, with images from a registry: told in this order.

The cluster is another embedded one, but all that `make up` knows of it is a kubeconfig.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from checkout import cluster_name
from cluster.lab import Lab
from topmast_cluster.binaries import ensure_registry
from topmast_cluster.cluster import Cluster
from topmast_cluster.images.build import Image
from topmast_cluster.progress import Progress

CHECKOUT = Path(__file__).parents[2]
# Images are pushed and pulled: two and a half minutes of a quiet machine.
pytestmark = [pytest.mark.story, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Own:
    """A cluster of one's own and a registry that its node can pull from."""

    cluster: Cluster
    lab: Lab
    registry: str

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        """What `make TARGET` runs, with this Python."""
        environment = {**os.environ, **self.cluster.environment(), "IMAGE_REGISTRY": f"{self.registry}/team"}
        module = [sys.executable, "-m", f"topmast_cluster.{target}"]
        return subprocess.run(module, capture_output=True, text=True, timeout=800, cwd=CHECKOUT, env=environment)

    def model_pods(self) -> set[str]:
        """UIDs of the engine pods, those on their way out included."""
        return {pod["metadata"]["uid"] for pod in self.lab.list("pods", "topmast.dev/model=smollm2")}


@contextmanager
def registry(folder: Path, node: str) -> Iterator[str]:
    """One registry in two processes: here, to push to, and at the same loopback address of a node, to pull from.

    On loopback both buildah and containerd speak plain HTTP. `node` is the node's network namespace.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config, log = folder / "config.yaml", folder / "log"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    serve = [str(ensure_registry(Progress())), "serve", str(config)]
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with log.open("wb") as output, ExitStack() as running:
        for prefix in ([], ["nsenter", f"--net=/var/run/netns/{node}"]):
            process = subprocess.Popen([*prefix, *serve], stdout=output, stderr=output, env=environment)
            running.callback(process.wait, 20)
            running.callback(process.terminate)
        host, port = address.split(":")
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex((host, int(port))):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield address


@pytest.fixture(scope="module")
def own(images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    cluster = Cluster(cluster_name("own"), Progress())
    cluster.stop()
    cluster.start(nodes=1)
    try:
        with registry(tmp_path_factory.mktemp("registry"), cluster.names.netns("node-1")) as address:
            kubectl, helm = cluster.binaries["kubectl"], cluster.binaries["helm"]
            yield Own(cluster, Lab(kubectl, helm, cluster.kubeconfig, gateway_url="", key=""), address)
    finally:
        cluster.stop()


def test_make_up_brings_the_images_through_the_registry_and_ends_with_an_answer(own: Own) -> None:
    done = own.make("up")
    assert done.returncode == 0, done.stderr
    assert "A: " in done.stdout and "Tokyo" in done.stdout, done.stdout
    images = own.lab.kubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].spec.containers[*].image}").split()
    assert images and all(image.startswith(f"{own.registry}/team/topmast/") for image in images), images
    # What it tells people to type reaches the gateway by a port-forward, which is how the answer came.
    assert "port-forward svc/topmast-gateway" in done.stdout


def test_a_release_that_was_removed_finds_its_model_running_when_it_comes_back(own: Own) -> None:
    before = own.model_pods()
    assert len(before) == 1
    own.lab.helm("uninstall", "topmast", "--namespace", "topmast-system", "--wait")
    own.lab.until(
        "operator and gateway are gone",
        lambda: not own.lab.kubectl("get", "pods", "-n", "topmast-system", "-o", "name"),
    )
    time.sleep(5)  # nobody is there to act, and no owner reference may take the pods along
    assert own.model_pods() == before
    done = own.make("up")
    assert done.returncode == 0, done.stderr
    assert "Tokyo" in done.stdout
    assert own.model_pods() == before


def test_make_down_removes_model_chart_and_crd_and_leaves_the_cluster(own: Own) -> None:
    done = own.make("down")
    assert done.returncode == 0, done.stderr
    assert own.lab.kubectl("get", "namespaces", "topmast-system", check=False).find("NotFound") >= 0
    assert own.lab.kubectl("get", "crd", "llmdeployments.topmast.dev", check=False).find("NotFound") >= 0
    own.lab.until("the model's pods are gone", lambda: not own.model_pods())
    left = own.lab.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "topmast" not in left
