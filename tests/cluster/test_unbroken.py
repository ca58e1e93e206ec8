"""Whoever leaves, dies or is silent in the real cluster, no client can tell: every answer is the undisturbed one.

One model with two engines for all of it, so the scale-in is the last. Traffic is an open loop through the Service.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import httpx
import pytest

from cluster.lab import RELEASE, SYSTEM, Lab, Object, address, metric
from topmast_cluster.cluster import Cluster
from topmast_cluster.process import read_pid_file
from traffic import Answer, Ask, Log, OpenLoop, long, mixed, undisturbed

OPERATOR, GATEWAY = "app.kubernetes.io/component=operator", "app.kubernetes.io/component=gateway"
ENGINE = {"extraArgs": ["--batch-invariant", "--ttft-target-s=120"]}
SHORT_DRAIN = {"timeoutSeconds": 1}  # shorter than the long answers: they have to move
ASKS = [ask for ask in mixed(24, seed=6) if ask.fields["max_tokens"] <= 40]
LONG = long(6, tokens=400)  # so many that both engines get some, and so long that a leaving gateway has one open
MOVE_S = 3.0  # the longest pause of an answer that moves, beyond the time to notice that it must
SILENCE_S = 5.0  # the gateway's default: what it is told by nothing else it notices by then
FREEZE_S = 10.0


@pytest.fixture(scope="module")
def model(lab: Lab) -> Iterator[str]:
    """Two engines whose answers do not depend on what else they compute."""
    with lab.model("unbroken", replicas=2, engine=ENGINE, drain=SHORT_DRAIN) as model:
        lab.until_ready(model, 2)
        yield model


@pytest.fixture(scope="module")
def expected(lab: Lab, model: str) -> Mapping[int, Answer]:
    """What one engine answers without a gateway and without faults."""
    engine = f"http://{address(lab.pods(model)[0])}:8000/v1"
    return undisturbed(engine, model, [*ASKS, *LONG], key=lab.engine_token(model))


@pytest.fixture
def load(lab: Lab, model: str, expected: Mapping[int, Answer]) -> Callable[..., OpenLoop]:
    """Traffic for a model that is well, by its seed; it begins with long streams for a fault to meet."""
    lab.until_ready(model, 2)

    def start(seed: int, first: Sequence[Ask] = LONG, per_s: float = 0.7) -> OpenLoop:
        return OpenLoop([lab.gateway_url], lab.key, model, ASKS, expected, per_s=per_s, seed=seed, first=first)

    return start


def moved(lab: Lab) -> float:
    """Answers that went on at another pod, by all gateways."""
    gateways = lab.list("pods", GATEWAY, SYSTEM)
    return sum(metric(pod, 8081, "topmast_gateway_move_gap_seconds_count") for pod in gateways)


def until_busy(lab: Lab, log: Log, pods: Sequence[Object]) -> None:
    """Every one of these computes, and clients read streams."""
    lab.until("every engine has a stream", lambda: log.streaming >= 2 and all(map(lab.computes, pods)), every_s=0.1)


def until_more(lab: Lab, log: Log, in_all: int) -> None:
    """Three further requests end, and so many since the traffic began."""
    enough = max(in_all, len(log.ended) + 3)
    lab.until(f"{enough} answers", lambda: len(log.ended) >= enough, every_s=0.1)


def assert_unbroken(log: Log, at_least: int) -> None:
    log.assert_clean(at_least)
    assert log.report()["longest_gap_s"]["p99"] <= SILENCE_S + MOVE_S, log.report()


@contextmanager
def nobody_operates(lab: Lab) -> Iterator[None]:
    """The operator's pod is deleted, and no other made before the end of the block."""
    deployment = f"deploy/{RELEASE}-operator"
    lab.kubectl("-n", SYSTEM, "scale", deployment, "--replicas=0")
    try:
        lab.kubectl("-n", SYSTEM, "delete", "pod", "-l", OPERATOR, "--grace-period=1")
        lab.until("the operator is gone", lambda: not lab.list("pods", OPERATOR, SYSTEM))
        yield
    finally:
        lab.kubectl("-n", SYSTEM, "scale", deployment, "--replicas=1")
        lab.kubectl("-n", SYSTEM, "rollout", "status", deployment, "--timeout=90s")


@contextmanager
def api_server_frozen(cluster: Cluster) -> Iterator[None]:
    """It keeps its connections and says nothing."""
    server = read_pid_file(cluster.paths.control_plane / "kube-apiserver.pid")
    assert server and server.alive()
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


def test_no_client_notices_when_a_pod_is_lost_while_the_operator_is_away(
    lab: Lab, model: str, load: Callable[..., OpenLoop]
) -> None:
    before = moved(lab)
    with load(1, first=(), per_s=0.4) as log:
        with nobody_operates(lab):
            pods = lab.pods(model)
            with load(2, per_s=0.4) as struck:
                until_busy(lab, struck, pods)
                victim = max(pods, key=lab.computes)
                lab.kubectl("delete", "pod", victim["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
                lab.signal_engine(victim, signal.SIGKILL)  # as on a node that is lost: it would have drained
            lab.until("another pod is ready", lambda: len(lab.ready_uids(model)) == 2)

        def told() -> bool:
            status = lab.get("llm", model)["status"]
            return {pod["name"] for pod in status["pods"]} == {pod["metadata"]["name"] for pod in lab.pods(model)}

        lab.until("the operator has seen what happened", told)
        lab.until_ready(model, 2)
        until_more(lab, log, 6)
    assert_unbroken(struck, at_least=len(LONG))
    assert_unbroken(log, at_least=6)
    assert moved(lab) > before, "no answer was under way on the pod; the test shows nothing"


def test_no_client_notices_when_the_gateways_are_replaced(lab: Lab, load: Callable[..., OpenLoop]) -> None:
    old = {pod["metadata"]["uid"] for pod in lab.list("pods", GATEWAY, SYSTEM)}
    finishing: list[float] = []

    def replaced() -> bool:
        left = [pod for pod in lab.list("pods", GATEWAY, SYSTEM) if pod["metadata"]["uid"] in old]
        for pod in left:
            if "deletionTimestamp" in pod["metadata"]:
                with suppress(httpx.TransportError):  # it has ended since
                    finishing.append(metric(pod, 8081, "topmast_gateway_requests_in_flight", timeout_s=5))
        return not left

    def one_is_new() -> bool:
        return any(pod["metadata"]["uid"] not in old for pod in lab.list("pods", GATEWAY, SYSTEM))

    lab.kubectl("-n", SYSTEM, "rollout", "restart", f"deploy/{RELEASE}-gateway")
    lab.until("the first new gateway starts", one_is_new, every_s=0.1)
    with load(4) as log:  # while the old ones still serve: none leaves before a new one is ready
        lab.until("all gateways are new", replaced, 90, 0.2)
        lab.kubectl("-n", SYSTEM, "rollout", "status", f"deploy/{RELEASE}-gateway", "--timeout=60s")
        until_more(lab, log, 8)
    assert_unbroken(log, at_least=8)
    assert any(finishing), "no gateway had an open answer when it was told to leave; the test shows nothing"


def test_no_client_notices_when_an_engine_dies_while_the_api_server_is_frozen(
    lab: Lab, cluster: Cluster, model: str, load: Callable[..., OpenLoop]
) -> None:
    before = moved(lab)
    pods = lab.pods(model)
    with load(3) as log:
        until_busy(lab, log, pods)
        with api_server_frozen(cluster):
            lab.signal_engine(pods[0], signal.SIGKILL)
            time.sleep(FREEZE_S)
        until_more(lab, log, 8)
    assert_unbroken(log, at_least=8)
    assert moved(lab) > before, "no answer was under way on the engine; the test shows nothing"


def test_no_client_notices_when_the_model_is_scaled_in(lab: Lab, model: str, load: Callable[..., OpenLoop]) -> None:
    pods = lab.pods(model)
    with load(5) as log:
        until_busy(lab, log, pods)
        lab.kubectl("patch", "llm", model, "--type=merge", "-p", '{"spec":{"replicas":1}}')
        lab.until("one pod is left", lambda: len(lab.list("pods", f"topmast.dev/model={model}")) == 1)
        lab.until_ready(model, 1)
        until_more(lab, log, 8)
    assert_unbroken(log, at_least=8)
