"""A control plane of our own for all tests here, one gateway that most of them share, and clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest
import uvloop

from checkout import cluster_name
from gateway.lab.instant import InstantLoop
from gateway.lab.stage import KEY, SYSTEM, Gateway, Stage
from topmast_cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]
WITHOUT_A_NETWORK = ("test_parse.py", "test_dispatcher.py")
BYTES_OF_A_CONNECTION = ("test_connection.py", "test_fuzz.py", "test_surface.py", "test_tls.py")

# How long one example takes says nothing here: clusters and engines run beside the tests.
hypothesis.settings.register_profile("gateway", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("gateway")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway's own loop where the bytes of a connection are looked at: closing and writing differ in detail."""
    if item.path.name in BYTES_OF_A_CONNECTION:
        return {"uvloop": uvloop.new_event_loop}
    if item.path.name in WITHOUT_A_NETWORK:
        return {"instant": InstantLoop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """etcd, API server and controllers; no node."""
    cluster = Cluster(cluster_name("gw"))
    cluster.stop()
    cluster.start(nodes=0)
    try:
        cluster.apply_crds(ROOT / "crds")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def stage(cluster: Cluster) -> Stage:
    """The cluster's side, with one API key in place."""
    stage = Stage(cluster.kubeconfig)
    stage.namespace(SYSTEM)
    stage.keys(tests=KEY)
    return stage


@pytest.fixture(scope="session")
def new_gateway(stage: Stage) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways with the given flags; all are gone at the end."""
    started: list[Gateway] = []

    def start(*flags: str, kubeconfig: Path | None = None) -> Gateway:
        started.append(Gateway(kubeconfig or stage.kubeconfig, *flags))
        return started[-1]

    yield start
    for gateway in started:
        gateway.close()


@pytest.fixture(scope="session")
def access_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared gateway writes it."""
    return tmp_path_factory.mktemp("gateway") / "access.jsonl"


@pytest.fixture(scope="session")
def gateway(new_gateway: Callable[..., Gateway], access_log: Path) -> Gateway:
    """The one that watches every namespace; all its tests are wrong from one address.

    It has the patience for a machine that stands still for a few seconds, and the engines of the tests with it.
    """
    flags = ("--hold-s", "30", "--progress-timeout-s", "30", "--max-streams", "64", "--failures-per-minute", "0")
    return new_gateway(*flags, "--access-log", str(access_log)).wait_ready()


@pytest.fixture(scope="session")
def impatient(new_gateway: Callable[..., Gateway]) -> Gateway:
    """One for tests of what happens when its patience ends."""
    return new_gateway("--hold-s", "3", "--progress-timeout-s", "3").wait_ready()


@pytest.fixture
def namespace(stage: Stage) -> str:
    """A namespace of the test's own."""
    return stage.namespace()


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a valid key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


@pytest.hookimpl(tryfirst=True)  # before -m looks at marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who needs the control plane: those tests share one and run one by one, the rest run on two cores."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("control_plane")
