"""One embedded cluster with the chart installed, shared by every test that needs the whole product.

KEEP_CLUSTER=1 leaves it running afterwards and uses it again, for somebody who runs one test many times.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkout import cluster_name
from cluster.lab import RELEASE, SYSTEM, Lab
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.cluster import Cluster
from topmast_cluster.images.build import Image, ensure_images
from topmast_cluster.images.load import load_images
from topmast_cluster.progress import Progress

KEEP = bool(os.environ.get("KEEP_CLUSTER"))
CHART = Path(__file__).parents[2] / "charts" / "topmast"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The audit of the roles judges all that came before it, so it comes last."""
    items.sort(key=lambda item: "test_rights" in item.nodeid)


@pytest.fixture(scope="session")
def images() -> dict[str, Image]:
    """Both images of this checkout, as it was when the tests began."""
    return ensure_images(Progress())


@pytest.fixture(scope="session")
def cluster(images: dict[str, Image]) -> Iterator[Cluster]:
    """One node that advertises two GPUs which nothing has, with both images loaded."""
    progress = Progress()
    cluster = Cluster(cluster_name("test"), progress)
    if not KEEP:
        cluster.stop()  # what a crashed run left
    cluster.start(nodes=1, gpus={"node-1": 2})
    try:
        load_images(cluster, images.values())
        # Clients compete with engines for two cores. Linux 6.18 lets what is outside of the cluster's control group,
        # kernel threads too, wait for seconds on end while engines compute: no test would measure anything else.
        with Cgroup(cluster.names.cgroup).below("clients").joined():
            yield cluster
    finally:
        if not KEEP:
            cluster.stop()


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    """An API server without nodes, for what is only asked and never run."""
    cluster = Cluster(cluster_name("chart"), Progress())
    cluster.stop()
    try:
        cluster.start(nodes=0)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def lab(cluster: Cluster, images: dict[str, Image]) -> Lab:
    """The chart as it ships, installed by Helm."""
    binaries = cluster.binaries
    lab = Lab(binaries["kubectl"], binaries["helm"], cluster.kubeconfig, gateway_url="", key="")
    tags = [f"--set=images.{name}.tag={image.tag}" for name, image in images.items()]
    lab.helm(
        "upgrade",
        "--install",
        RELEASE,
        str(CHART),
        "-n",
        SYSTEM,
        "--create-namespace",
        "--wait",
        "--timeout=120s",
        *tags,
    )
    secret = lab.get("secret", f"{RELEASE}-first-key", SYSTEM)
    address = lab.get("service", f"{RELEASE}-gateway", SYSTEM)["spec"]["clusterIP"]
    key = base64.b64decode(secret["data"]["key"]).decode()
    token = base64.b64decode(lab.get("secret", f"{RELEASE}-metrics-token", SYSTEM)["data"]["token"]).decode()
    return Lab(lab.kubectl_path, lab.helm_path, lab.kubeconfig, f"http://{address}/v1", key, token)


@pytest.fixture(scope="session")
def bad_models(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A volume claim `bad-models` with a model file that is cut off in the middle of its tensors."""
    folder = tmp_path_factory.mktemp("bad-models")
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent == Path("/tmp"):
            break
        parent.chmod(0o755)
    corrupt = folder / "corrupt.gguf"
    corrupt.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") + bytes(64))
    corrupt.chmod(0o644)
    spec = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": "bad-models"}
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "bad-models"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "hostPath": {"path": str(folder)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "bad-models", "namespace": "default"},
            "spec": {**spec, "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    lab.until("the claim is bound", lambda: lab.get("pvc", "bad-models")["status"]["phase"] == "Bound")
