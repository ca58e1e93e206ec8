"""A control plane for the operator's tests: etcd, API server, controllers and scheduler are real, nodes are played."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from operatorlab.playkubelet import PlayKubelet
from operatorlab.world import SYSTEM, Process, World

from checkout import cluster_name
from pod_network import pod_network
from topmast_cluster.cluster import Cluster
from topmast_cluster.progress import Progress

# The machine also runs a control plane: how long an example takes says nothing.
hypothesis.settings.register_profile("operator", deadline=None)
hypothesis.settings.load_profile("operator")

CRD = Path(__file__).parents[2] / "crds" / "llmdeployments.yaml"


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pod_network():
        yield from _worlds(tmp_path_factory.mktemp("operator"))


def _worlds(directory: Path) -> Iterator[World]:
    cluster = Cluster(cluster_name("op"), progress=Progress(quiet=True))
    cluster.stop()
    cluster.start(nodes=0)
    kubelet = PlayKubelet(str(cluster.kubeconfig))
    kubelet.add_node("worker-1")
    kubelet.add_node("gpu-1", gpus=2)
    try:
        world = World(cluster, kubelet, directory)
        cluster.apply_crds(CRD)
        world.until("kubectl knows the kind", lambda: "No resources" in world.kubectl("get", "llm", "-A", check=False))
        world.kubectl("create", "namespace", SYSTEM)
        world.grant("operator")
        kubelet.start()
        yield world
        assert kubelet.problems == []
    finally:
        kubelet.stop()
        cluster.stop()


@pytest.fixture
def world(whole_world: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """The cluster with a namespace for this test alone."""
    name = "t-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    whole_world.kubectl("create", "namespace", name)
    whole_world.namespace = name
    whole_world.until("the service account", lambda: whole_world.get("serviceaccount", "default"))
    yield whole_world
    whole_world.kubectl("delete", "llm", "--all", "--wait=false")
    whole_world.kubectl("delete", "namespace", name, "--wait=false")
    whole_world.namespace = "default"


@pytest.fixture(scope="module")
def running(whole_world: World) -> Iterator[Process]:
    """One operator process, cluster-wide, for all tests of a module."""
    with whole_world.operator("--resync-s", "3") as process:
        yield process
